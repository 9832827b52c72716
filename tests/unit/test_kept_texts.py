"""Texts of compared requests: kept only where operator and domain both ask, and bounded."""

import asyncio
import json
from pathlib import Path

import pytest

from serving.outcomes.kept_texts import KeptTexts


def keep(kept: KeptTexts, count: int, text: str = "x" * 100) -> None:
    async def work() -> None:
        for number in range(count):
            if kept.wanted:
                await kept.keep(number=number, given=text)

    asyncio.run(work())


def lines(folder: Path) -> list[dict[str, object]]:
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def test_nothing_is_kept_unless_a_folder_is_named(tmp_path: Path) -> None:
    kept = KeptTexts(None, 1 << 20)
    assert not kept.wanted
    assert list(tmp_path.iterdir()) == []


def test_a_folder_holds_whole_lines_up_to_its_bound_across_restarts(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    keep(KeptTexts(folder, 1000), 3)
    keep(KeptTexts(folder, 1000), 100)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert 700 < size <= 1000
    assert [line["number"] for line in lines(folder)].count(0) == 2
    after = KeptTexts(folder, 1000)
    keep(after, 1, "y" * 2000)
    assert not after.wanted
    assert sum(path.stat().st_size for path in folder.iterdir()) == size


def test_only_the_servers_own_user_may_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    keep(KeptTexts(folder, 1000), 1)
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_disk_that_fails_ends_the_keeping_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    kept = KeptTexts(tmp_path / "file" / "texts", 1000)
    keep(kept, 1)
    assert not kept.wanted
