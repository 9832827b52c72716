"""Pushed tasks as suites: kept by digest, verified each time, and asked only as they were named."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.tasks import read
from eval.errors import TaskDiffers
from eval.pushed import described, pushed_suite, required
from eval.suites import suite_of
from tests.support.pushed_tasks import contents


class Shelf:
    """What a client is to a registry with one task."""

    def __init__(self, folder: Path) -> None:
        for name, data in contents(n=40).items():
            (folder / name).write_bytes(data)
        task = read(folder)
        self.folder, self.pulls = folder, 0
        self.version: dict[str, Any] = {
            "ref": "radiology/modality@3", "task": "modality", "version": 3, "digest": task.digest,
            "suites": [msgspec.to_builtins(described(suite_of(task, "radiology")))],
        }  # fmt: skip

    def task(self, ref: str) -> dict[str, Any]:
        assert ref in ("radiology/modality", "radiology/modality@3")
        return self.version

    def pull_task(self, ref: str, directory: Path) -> dict[str, Any]:
        self.pulls += 1
        for path in self.folder.iterdir():
            (directory / path.name).write_bytes(path.read_bytes())
        return self.task(ref)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setenv("LORARY_HOME", str(tmp_path / "home"))
    (tmp_path / "folder").mkdir()
    return Shelf(tmp_path / "folder")


def test_a_version_is_fetched_once_and_fetched_again_if_the_cache_was_changed(
    shelf: Shelf, tmp_path: Path
) -> None:
    registry: Any = shelf
    first = pushed_suite(registry, "radiology", "modality")
    assert (first.pushed, first.domain) == ("modality@3", "radiology")
    assert pushed_suite(registry, "radiology", "modality@3").digest == first.digest
    assert shelf.pulls == 1
    (kept,) = (tmp_path / "home").rglob("items.jsonl")
    kept.write_bytes(kept.read_bytes().replace(b"x-ray", b"ultrasound"))
    assert pushed_suite(registry, "radiology", "modality@3").held_out == first.held_out
    assert shelf.pulls == 2
    assert not list((tmp_path / "home").rglob(".arriving-*"))


def test_a_version_whose_files_ask_something_else_here_is_not_asked(shelf: Shelf) -> None:
    registry: Any = shelf
    shelf.version["suites"][0]["digest"] = "0" * 64
    with pytest.raises(TaskDiffers, match="radiology/modality@3 make other questions"):
        pushed_suite(registry, "radiology", "modality@3")


def test_what_a_policys_rules_name_is_asked_once_each(shelf: Shelf) -> None:
    registry: Any = shelf
    rules = [{"suite": "medical-task", "task": ""}, {"task": "modality@3"}, {"suite": "old"}]
    (suite,) = required(registry, "radiology", rules * 2)
    assert suite.pushed == "modality@3"
    assert suite.limited(3).pushed == "", "other items than the version's"
