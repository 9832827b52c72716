"""A replica over a local registry, and what stands where vLLM would."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.replicas import Site, Upstream, make_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    yield made
    made.registry.close()


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()
