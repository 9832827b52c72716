"""Where an adapter comes from: enough to make it again, or to see that nothing changed."""

import hashlib
from importlib.metadata import version

import msgspec

from adapters.base_model import BaseModel
from adapters.packs import DataSet, DomainPack
from adapters.recipe import Recipe

PACKAGES = ("torch", "transformers", "peft", "trl")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that determines a training's result, but the machine."""

    domain: str
    adapter: str
    base: str
    base_digest: str
    data_digest: str
    sources: dict[str, str]
    """Package and version to SHA-256 of its archive."""
    recipe: Recipe
    versions: dict[str, str]

    @property
    def digest(self) -> str:
        """The plan's identity: the same plan need not be trained twice."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """What is written beside the adapter's weights as `provenance.json`."""

    plan: Plan
    plan_digest: str
    train_items: int
    held_out_items: int
    final_loss: float
    seconds: float


def make_plan(pack: DomainPack, data: DataSet, base: BaseModel, recipe: Recipe) -> Plan:
    """The plan of training `pack` on `base`."""
    return Plan(
        domain=pack.domain,
        adapter=pack.adapter,
        base=base.name,
        base_digest=base.digest,
        data_digest=data.digest,
        sources={f"{s.package}=={s.version}": s.sha256 for s in pack.sources},
        recipe=recipe,
        versions={name: version(name) for name in PACKAGES},
    )
