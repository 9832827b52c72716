"""Where an adapter comes from: enough to make it again, or to see that nothing changed."""

import hashlib
from importlib.metadata import version
from pathlib import Path

import msgspec

from adapters.admission import PROVENANCE, WEIGHTS
from adapters.base_model import BaseModel
from adapters.lineage import Lineage
from adapters.packs import DomainPack
from adapters.recipe import AnyRecipe, Classify
from adapters.training.job import Forgetting, Record

PACKAGES = ("torch", "transformers", "peft", "trl")
MAX_RECORDS = 500
"""Of the history that is kept; a longer one is thinned."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that determines a training's result, but the machine."""

    domain: str
    adapter: str
    base: str
    base_digest: str
    data_digest: str
    sources: dict[str, str]
    """Package and version to SHA-256 of its archive."""
    recipe: AnyRecipe
    start_digest: str | None = None
    """SHA-256 of the weights of the adapter that was continued."""
    reward_digest: str | None = None
    """SHA-256 of the weights of the reward model."""
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
    dropped_items: int = 0
    """Left out because they are longer than the recipe's `max_tokens`."""
    leaked_items: int = 0
    """Left out because a task among the sources holds their text out."""
    held_out_items: int
    """Of the domain packs: never trained on."""
    final_loss: float
    seconds: float
    """Of the run that ended it; a run that was killed before is not counted."""
    trainable: int
    parameters: int
    peak_bytes: int
    """Most memory the process held, or on a GPU the most allocated there."""
    forgetting: Forgetting | None = None
    history: list[Record]


def existing(out: Path) -> Provenance | None:
    """The provenance of the adapter in `out`, or None if there is none."""
    try:
        return msgspec.json.decode((out / PROVENANCE).read_bytes(), type=Provenance)
    except (OSError, ValueError):
        return None


def make_plan(
    recipe: AnyRecipe,
    base: BaseModel,
    data_digest: str,
    packs: tuple[DomainPack, ...],
    start: Path | None,
    reward: Path | None,
) -> Plan:
    """The plan of training `recipe` on `base`."""
    sources = {f"{s.package}=={s.version}": s.sha256 for pack in packs for s in pack.sources}
    domain, _, adapter = recipe.adapter.partition("/")
    return Plan(
        domain=domain,
        adapter=adapter,
        base=base.name,
        base_digest=base.digest,
        data_digest=data_digest,
        sources=sources,
        recipe=recipe,
        start_digest=None if start is None else weights_digest(start),
        reward_digest=None if reward is None else weights_digest(reward),
        code=code_digest(recipe),
        versions={name: version(name) for name in PACKAGES},
    )


def code_digest(recipe: AnyRecipe) -> str:
    """SHA-256 over the sources of the stage's training code and the domain packs."""
    here, hashing = Path(__file__).parent, hashlib.sha256()
    folders = [here, here.parent / "packs"]
    if isinstance(recipe, Classify):
        folders.append(here / "classification")
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        hashing.update(f"{path.name} {path.stat().st_size}\n".encode())
        hashing.update(path.read_bytes())
    return hashing.hexdigest()


def lineage_of(plan: Plan, reviews: tuple[str, ...], parent: str | None) -> Lineage:
    """What the registry reads: the plan, its parent, and the expert reviews among its data."""
    return Lineage(
        parent=parent,
        data=plan.data_digest,
        recipe=plan.recipe.digest,
        code=plan.code,
        reviews=reviews,
    )


def thinned(history: list[Record]) -> list[Record]:
    """At most `MAX_RECORDS` of the steps, evenly spread, and every evaluation."""
    stride = -(-len(history) // MAX_RECORDS)
    return [r for i, r in enumerate(history) if i % stride == 0 or "eval_loss" in r]


def weights_digest(directory: Path) -> str:
    """SHA-256 of the weights of the adapter in a directory."""
    with (directory / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
