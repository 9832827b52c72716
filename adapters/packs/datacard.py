"""The card of a data set: what it is for, where it comes from, what is wrong with it."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from adapters.packs.abstaining import UNKNOWN
from adapters.packs.contamination import contamination
from adapters.packs.pack import DomainPack

MOST_LABELS = 40
"""More labels than this are counted, not listed."""


def manifest(pack: DomainPack) -> dict[str, Any]:
    """What identifies the data set: its digest, and every source's package, digest and licence."""
    data = pack.load()
    return {
        "domain": pack.domain,
        "task": pack.title,
        "digest": data.digest,
        "train": dict(Counter(item.label for item in data.train)),
        "held_out": dict(Counter(item.label for item in data.held_out)),
        "sources": {
            source.package: {
                "version": source.version,
                "archive": source.archive,
                "sha256": source.sha256,
                "licence": source.licence,
            }
            for source in pack.sources
        },
    }


def data_card(pack: DomainPack) -> str:
    """The card as Markdown."""
    described, data = manifest(pack), pack.load()
    ways = "\n".join(f"- {way}" for way in (pack.instruction, *pack.phrasings))
    sources = "\n".join(
        f"- `{package}` {source['version']}, {source['licence']}; SHA-256 `{source['sha256']}`"
        for package, source in described["sources"].items()
    )
    split = (
        "Every item is held out: an exam is for judging, never for training."
        if pack.exam
        else f"{len(data.train)} items to train on, {len(data.held_out)} held out, in "
        f"{len({i.unit for i in data.train})} and {len({i.unit for i in data.held_out})} split "
        "units. No unit is on both sides; a text with two different answers is left out."
    )
    return f"""\
# {pack.title}

{pack.domain} task `{pack.adapter}`. Digest `{described["digest"]}`.

## How it is asked

{ways}

Each item is asked in one of them, always the same.

## Split

{split} {contamination(data).said}

## Answers

{_answers(described["train"], described["held_out"])}

## Sources

{sources}

Read out of the packages' archives, which are checked against these digests; nothing is vendored.

## Limits

{pack.limits} Labels and texts are the sources': nobody has reviewed them again.{_abstaining(data)}
"""


def _answers(train: Mapping[str, int], held_out: Mapping[str, int]) -> str:
    labels = sorted({*train, *held_out})
    if len(labels) > MOST_LABELS:
        return f"{len(labels)} different answers; too many to list."
    rows = [f"| {label} | {train.get(label, 0)} | {held_out.get(label, 0)} |" for label in labels]
    return "\n".join(["| answer | train | held out |", "|---|---|---|", *rows])


def _abstaining(data: Any) -> str:
    if not any(item.label == UNKNOWN for item in data.train):
        return ""
    return (
        f' Questions whose answer is "{UNKNOWN}" were made or chosen by program (see '
        "`adapters/packs`): they teach to abstain from texts of that kind, not from every "
        "question without an answer."
    )
