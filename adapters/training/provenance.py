"""Where an adapter comes from: enough to make it again, or to see that nothing changed."""

import hashlib
from importlib.metadata import version
from pathlib import Path

import msgspec

from adapters.base_model import BaseModel
from adapters.lineage import Lineage
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
    code: str
    """Digest of the source files that make an adapter of data and recipe."""
    versions: dict[str, str]

    @property
    def digest(self) -> str:
        """The plan's identity: the same plan need not be trained twice."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """What is written beside the adapter's weights as `provenance.json`."""

    lineage: Lineage
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
        code=code_digest(),
        versions={name: version(name) for name in PACKAGES},
    )


def code_digest() -> str:
    """SHA-256 over the sources of the training code and the domain packs."""
    here, hashing = Path(__file__).parent, hashlib.sha256()
    for path in sorted([*here.glob("*.py"), *(here.parent / "packs").glob("*.py")]):
        hashing.update(f"{path.name} {path.stat().st_size}\n".encode())
        hashing.update(path.read_bytes())
    return hashing.hexdigest()


def lineage_of(plan: Plan) -> Lineage:
    """What the registry reads of a plan."""
    recipe = hashlib.sha256(msgspec.json.encode(plan.recipe, order="sorted")).hexdigest()
    return Lineage(data=plan.data_digest, recipe=recipe, code=plan.code)
