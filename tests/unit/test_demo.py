"""What a start of the demo publishes, and what it leaves as it is."""

import json
import re
import socket
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import typer
from rich.console import Console

import demo
from registry.cli import build
from tests.support import radiology

EXAMPLES = demo.examples(())
ANSWERS = {
    "ls": [{"path": "medical/icd10-coder", "default": True, "moves": [{}]}],
    "key": {"key": "lry_theirs"},
    "show": {"evaluations": []},
    "review": [],
}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that the demo gives, of a registry that holds the medical adapter."""
    given: list[tuple[str, ...]] = []

    def lorary(*arguments: str, shown: bool = False, key: str = "") -> Any:
        given.append((*arguments, *([f"as {key}"] if key else [])))
        return ANSWERS.get(arguments[0]) if "--json" in arguments else None

    monkeypatch.setattr(demo, "lorary", lorary)
    return given


def test_a_second_start_keeps_policies_aliases_and_versions(
    commands: list[tuple[str, ...]],
) -> None:
    demo.publish_all("model", EXAMPLES, trained=())
    assert not [command for command in commands if any("medical" in part for part in command)]
    pushes = [command for command in commands if command[0] == "push"]
    assert [command[2].split("/")[0] for command in pushes] == ["legal", "financial"]
    assert all(command[3:] == ("--alias", "production") for command in pushes)


def test_an_adapter_trained_anew_becomes_a_version_and_moves_no_alias(
    commands: list[tuple[str, ...]],
) -> None:
    demo.publish_all("model", EXAMPLES, trained={"medical"})
    (push,) = [command for command in commands if any("medical" in part for part in command)]
    assert push[0] == "push"
    assert "--alias" not in push


def test_version_1_is_evaluated_and_reviewed_once_by_others_than_its_publisher(
    commands: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "DEMO", tmp_path)
    demo.write(demo.key_file("evaluator"), "of an earlier start")
    demo.key_file("evaluator").chmod(0o644)
    demo.give_evidence(EXAMPLES[0])
    ref, theirs = "medical/icd10-coder@1", "as lry_theirs"
    assert commands[-2] == ("eval", ref, "--suite", "medical-task", "--n", "20", theirs)
    assert commands[-1][:3] == ("review", "open", ref)
    assert commands[-1][-1] == theirs
    for name in ("Dr Adams", "evaluator"):
        assert demo.key_file(name).read_text() == "lry_theirs"
        assert demo.key_file(name).stat().st_mode & 0o077 == 0
    # That start ended before its review was opened.
    commands.clear()
    monkeypatch.setitem(ANSWERS, "show", {"evaluations": [{}]})
    demo.give_evidence(EXAMPLES[0])
    assert [command for command in commands if "--json" not in command] == [
        ("review", "open", ref, "--n", "5", "--title", "Five answers", theirs)
    ]
    commands.clear()
    reviews = [{"domain": "medical", "adapter": "icd10-coder", "versions": [1]}]
    monkeypatch.setitem(ANSWERS, "review", reviews)
    demo.give_evidence(EXAMPLES[0])
    assert commands == [("show", ref, "--json"), ("review", "ls", "--json")]


def test_the_experts_keys_open_the_reviews_of_every_start(
    commands: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "DEMO", tmp_path)
    for example in EXAMPLES[:2]:
        demo.give_evidence(example)
    issued = [command for command in commands if command[:3] == ("key", "issue", "Dr Adams")]
    assert [command[3:-1] for command in issued] == [
        ("--grant", "review:*", "--grant", "approve:*")
    ]


def test_a_start_that_ended_after_its_push_is_finished_by_the_next(
    commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "medical/icd10-coder"
    monkeypatch.setitem(ANSWERS, "ls", [{"path": path, "default": False, "moves": []}])
    demo.publish_all("model", EXAMPLES[:1], trained=())
    assert commands[-2:] == [
        ("alias", "set", f"{path}@1", "production"),
        ("domain", "default", "medical", "icd10-coder"),
    ]


def test_a_port_that_cannot_be_used_is_refused_before_anything_is_trained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # no HTTP server: it answers nothing
        port = silent.getsockname()[1]
        with pytest.raises(demo.Failed, match=f"Port {port} cannot be used"):
            demo.refuse_taken(port)
    demo.refuse_taken(port)
    for ports in ((port, port), (70_000,)):
        with pytest.raises(demo.Failed, match=f"Port {ports[-1]} cannot be used"):
            demo.refuse_taken(*ports)


def test_a_failure_is_shown_with_the_brackets_of_its_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise demo.Failed("INFO [core.py:12] no file [/usr/lib/x]")

    monkeypatch.setattr(demo, "run", fail)
    monkeypatch.setattr(demo, "end_on_signals", lambda: None)
    monkeypatch.setattr("sys.argv", ["demo"])
    monkeypatch.setattr(demo, "console", Console(file=(out := StringIO()), width=80))
    with pytest.raises(SystemExit):
        demo.main()
    assert "INFO [core.py:12] no file [/usr/lib/x]" in out.getvalue()


def test_a_question_that_is_refused_shows_why() -> None:
    def refuse(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(410, json={"error": {"message": "Version 1 is revoked."}})

    transport = httpx2.MockTransport(refuse)
    with openai.OpenAI(
        base_url="http://test/v1", api_key="x", http_client=httpx2.Client(transport=transport)
    ) as client:
        table = demo.ask(client, EXAMPLES[0])
    assert table.row_count == 2
    assert all("Version 1 is revoked." in str(cell) for cell in table.columns[1].cells)


def test_the_screen_at_the_end_fits_a_terminal_and_says_where_and_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "DEMO", tmp_path)
    monkeypatch.setattr(demo, "console", Console(file=(out := StringIO()), width=80))
    demo.write_files("http://127.0.0.1:8000", "http://127.0.0.1:8100", "lry_app", EXAMPLES[0])
    demo.show_what_runs("http://127.0.0.1:8000", "http://127.0.0.1:8100", EXAMPLES)
    shown = out.getvalue()
    assert len(shown.splitlines()) <= 22
    for words in ("http://127.0.0.1:8100/medical/", "http://127.0.0.1:8000/v1", "operator.key"):
        assert words in shown
    app = typer.main.get_command(build())
    for command in re.findall(r"^  lorary ([a-z]+)", shown, re.MULTILINE):
        assert command in vars(app)["commands"]
    for name in ("environment.sh", "ask.sh", "ask.py"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
    compile((tmp_path / "ask.py").read_text(), "ask.py", "exec")
    checked = subprocess.run(["sh", "-n", tmp_path / "ask.sh"], check=False)
    assert checked.returncode == 0


def test_a_fast_start_trains_and_asks_one_adapter(
    commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["demo", "--fast"])
    assert demo.parse_options().fast
    demo.publish_all("model", EXAMPLES[1:2], trained=())
    assert {command[1] for command in commands if command[0] == "push"} == {
        str(demo.adapter_directory("legal"))
    }


def test_the_demo_takes_a_teams_own_task_by_its_recipe(
    tmp_path: Path, commands: list[tuple[str, ...]]
) -> None:
    radiology.write(tmp_path)
    (example,) = demo.examples([tmp_path])
    demo.train(example)
    demo.publish_all("model", [example], trained=())
    train, push = (next(c for c in commands if c[0] == name) for name in ("train", "push"))
    assert train[1:3] == ("--task", str(tmp_path))
    assert push[2] == "radiology/modality"
    question, reference = example.ask()
    assert question.startswith("Which imaging modality does this report describe?")
    assert reference in radiology.LABELS
    with pytest.raises(demo.Failed, match="one domain"):
        demo.examples([tmp_path, tmp_path])
    rows = [json.loads(row) | {"split": "train"} for row in (tmp_path / "items.jsonl").open()]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(demo.Failed, match="No item is held out"):
        demo.examples([tmp_path])
    (tmp_path / "recipe.yaml").unlink()
    with pytest.raises(demo.Failed, match=str(tmp_path)):
        demo.examples([tmp_path])
