"""What a start of the demo publishes, and what it leaves as it is."""

from typing import Any

import httpx2
import openai
import pytest

import demo
from adapters.packs import PACKS


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that the demo gives, of a registry that holds the medical adapter."""
    given: list[tuple[str, ...]] = []

    def lorary(*arguments: str, shown: bool = False) -> Any:
        given.append(arguments)
        return [{"path": "medical/icd10-coder"}] if "--json" in arguments else None

    monkeypatch.setattr(demo, "lorary", lorary)
    return given


def test_a_second_start_keeps_policies_aliases_and_versions(
    commands: list[tuple[str, ...]],
) -> None:
    demo.publish_all("model", trained=())
    assert not [command for command in commands if any("medical" in part for part in command)]
    pushes = [command for command in commands if command[0] == "push"]
    assert [command[2].split("/")[0] for command in pushes] == ["legal", "financial"]
    assert all(command[3:] == ("--alias", "production") for command in pushes)


def test_an_adapter_trained_anew_becomes_a_version_and_moves_no_alias(
    commands: list[tuple[str, ...]],
) -> None:
    demo.publish_all("model", trained={"medical"})
    (push,) = [command for command in commands if any("medical" in part for part in command)]
    assert push[0] == "push"
    assert "--alias" not in push


def test_a_question_that_is_refused_shows_why() -> None:
    def refuse(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(410, json={"error": {"message": "Version 1 is revoked."}})

    transport = httpx2.MockTransport(refuse)
    with openai.OpenAI(
        base_url="http://test/v1", api_key="x", http_client=httpx2.Client(transport=transport)
    ) as client:
        table = demo.ask(client, "medical", PACKS["medical"])
    assert table.row_count == 2
    assert all("Version 1 is revoked." in str(cell) for cell in table.columns[1].cells)
