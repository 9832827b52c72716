"""The tutorial of a domain of one's own: from an empty folder to an app's answer."""

from collections.abc import Callable

import pytest

from tests.walkthroughs.conftest import ROOT, Newcomer

pytestmark = pytest.mark.timeout(3600)


def test_own_domain(newcomer: Newcomer, document: Callable[..., list[str]]) -> None:
    folder = newcomer.base / "radiology"
    folder.mkdir()
    terminal = newcomer.terminal(folder)
    terminal.follow(f"source '{ROOT}/.venv/bin/activate'")
    printed = [terminal.follow(block) for block in document("docs/tutorials/own-domain.md")]
    digest, answer = printed[-1].split()
    assert digest in terminal.follow("lorary show radiology/modality@1 --json")
    assert answer in {"CT", "MRI", "Radiograph", "Ultrasound"}
