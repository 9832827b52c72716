"""Small tasks to be pushed, of any domain."""

import json
from collections.abc import Mapping

from registry.model.catalog import File
from registry.model.evidence import TaskSuite
from registry.registry import Registry
from registry.store.blobs import Blobs

SPEC = """\
name: {name}
about: {about}
licence: CC0-1.0
source: made for this test
score: {{kind: label}}
labels: [x-ray, ultrasound]
prompts: ["Which modality does this report come from? {{text}}"]
split: {{held_out: 1.0, calibration: 0.5}}
"""


def contents(name: str = "modality", about: str = "which modality", n: int = 6) -> dict[str, bytes]:
    """A sound task's files by their names."""
    rows = [
        {"text": f"report {i}", "target": ("x-ray", "ultrasound")[i % 2], "unit": f"u{i}"}
        for i in range(n)
    ]
    return {
        "task.yaml": SPEC.format(name=name, about=about).encode(),
        "items.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in rows),
        "card.md": b"# Modality\n\nMade for a test.\n",
    }


def suite(number: int = 1, name: str = "modality", items: int = 6) -> TaskSuite:
    """What a version of it asks; numbers differ in their digests."""
    return TaskSuite(name, f"{number:064x}", f"{number + 1000:064x}", items)


def stored(registry: Registry, files: Mapping[str, bytes]) -> tuple[File, ...]:
    """The files, stored as an upload stores them."""
    blobs = Blobs(registry.store)
    return tuple(
        File(path, len(data), blobs.put_bytes(data)) for path, data in sorted(files.items())
    )
