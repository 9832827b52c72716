"""What older versions of Lorary wrote is read for ever: a log with every event, its checkpoint and
its export, all made by the code of November 2026. Never edit these files; add new ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from registry.errors import BadRequest
from registry.log import checkpoints
from registry.log.commits import commit_key, decode, follow
from registry.log.layout import layout_of
from registry.maintain import archive
from registry.maintain.verify import verify
from registry.model.catalog import Catalog
from registry.model.machine import events
from registry.model.standing import calibrated
from registry.store import LocalStore

GOLDEN = Path(__file__).parents[1] / "support" / "golden"
LOG = GOLDEN / "schema-1-every-event.jsonl"
CHECKPOINT = GOLDEN / "checkpoint-layout-6.json"
COVERED = {
    "AliasMoved", "AliasSplit", "BaseModelRegistered", "BlobsCondemned", "BlobsSwept",
    "DefaultAdapterSet", "DomainCreated", "EvaluationRecorded", "FeedbackGiven", "ItemJudged",
    "KeyIssued", "KeyRevoked", "PolicyChanged", "RegistryCreated", "ReviewClosed", "ReviewErased",
    "ReviewOpened", "SplitRolledBack", "VersionApproved", "VersionPublished", "VersionRevoked",
    "VersionTombstoned",
}  # fmt: skip


def folded(lines: list[bytes]) -> Catalog:
    catalog = Catalog()
    for sequence, line in enumerate(lines, start=1):
        catalog = follow(catalog, decode(line, sequence))
    return catalog


def write(store: LocalStore, lines: list[bytes]) -> None:
    for sequence, line in enumerate(lines, start=1):
        store.put(commit_key(sequence), line, "create")


def test_the_sample_holds_every_event_there_was() -> None:
    entries = [e for line in LOG.read_bytes().splitlines() for e in json.loads(line)["entries"]]
    assert {entry["event"]["type"] for entry in entries} == COVERED
    known = events().keys()
    assert known >= COVERED, "an event was removed or renamed: old logs can no longer be read"


def test_an_old_log_means_what_it_meant() -> None:
    """The old checkpoint is what the old code folded; today's fold may only know more."""
    old = json.loads(CHECKPOINT.read_bytes())["catalog"]
    catalog = folded(LOG.read_bytes().splitlines()[: old["sequence"]])
    now = msgspec.to_builtins(catalog)
    for path, adapter in catalog.adapters.items():
        versions = []
        for version in adapter.versions:
            # Defaults are no longer written, and what counts is derived when it is read.
            fields = {name: getattr(version, name) for name in version.__struct_fields__}
            counting = calibrated(catalog.keys, version)
            fields["calibration"] = counting and counting.calibration
            versions.append(msgspec.to_builtins(fields))
        now["adapters"][path]["versions"] = versions
    assert list(lost(old, now, "catalog")) == []


def lost(old: Any, now: Any, where: str) -> Any:
    """Where `now` says something else than `old`; new fields are allowed."""
    if isinstance(old, dict) and isinstance(now, dict):
        for name, value in old.items():
            if name not in now:
                yield f"{where}.{name} is gone"
            else:
                yield from lost(value, now[name], f"{where}.{name}")
    elif isinstance(old, list) and isinstance(now, list | tuple) and len(old) == len(now):
        for index, (before, after) in enumerate(zip(old, now, strict=True)):
            yield from lost(before, after, f"{where}[{index}]")
    elif old != now:
        yield f"{where}: {old!r} became {now!r}"


def test_a_store_with_an_old_checkpoint_opens(local_store: LocalStore) -> None:
    lines = LOG.read_bytes().splitlines()
    write(local_store, lines)
    (local_store.root / "checkpoints").mkdir()
    shutil.copy(CHECKPOINT, local_store.root / checkpoints.checkpoint_key(50))
    local_store.put(checkpoints.LATEST, b"50", "overwrite")
    assert checkpoints.load(local_store) == folded(lines)


def test_an_old_export_which_cannot_show_that_it_is_complete_is_imported_if_that_is_accepted(
    local_store: LocalStore,
) -> None:
    with pytest.raises(BadRequest, match=r"no trailer.*holds 53 commits.*--without-trailer"):
        archive.import_(local_store, GOLDEN / "export-1.tar")
    assert list(local_store.list("")) == []
    archive.import_(local_store, GOLDEN / "export-1.tar", without_trailer=True)
    assert checkpoints.load(local_store) == folded(LOG.read_bytes().splitlines())
    assert verify(local_store).sound


class Inner(msgspec.Struct):
    """A part."""

    title: str
    count: int = 0


class Outer(msgspec.Struct):
    """A whole."""

    parts: tuple[Inner, ...] = ()


def changed(name: str, kind: type, default: Any = msgspec.NODEFAULT) -> type[msgspec.Struct]:
    """`Outer` with parts that have one more field."""
    field = (name, kind) if default is msgspec.NODEFAULT else (name, kind, default)
    inner = msgspec.defstruct("Inner", [("title", str), field])
    return msgspec.defstruct("Outer", [("parts", tuple[inner, ...], ())])  # type: ignore[valid-type]


def test_a_checkpoints_layout_follows_from_every_field_at_any_depth() -> None:
    assert layout_of(changed("count", int, 0)) == layout_of(Outer)
    for other in (changed("number", int, 0), changed("count", float, 0.0), changed("count", int)):
        assert layout_of(other) != layout_of(Outer)


def test_a_text_changes_no_layout() -> None:
    class Inner(msgspec.Struct):
        """Another text."""

        title: str
        count: int = 0

    class Outer(msgspec.Struct):
        """Another text, too."""

        parts: tuple[Inner, ...] = ()

    assert layout_of(Outer) == layout_of(globals()["Outer"])
