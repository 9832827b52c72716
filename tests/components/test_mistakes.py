"""Mistakes that people make: each gets one sentence that says what to do, and its exit code."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
import uvicorn

from registry.cli import build, exits
from registry.cli.help import EXIT_CODES
from registry.client import RegistryClient
from registry.http import create_app
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain
from registry.model.keys import RevokeKey
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.times import write
from tests.support.adapters import TINY, write_adapter
from tests.support.servers import BIN

DONE, NO, USAGE, UNKNOWN = exits.DONE, exits.NO, exits.USAGE, exits.UNKNOWN


@dataclass(frozen=True)
class Place:
    """A registry with one adapter, and keys of every kind."""

    folder: Path
    url: str
    store: str
    keys: dict[str, str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("mistakes")
    store = LocalStore(folder / "store")
    keys = {"operator": Registry.create(store, name="r", key_name="operator").text}
    with (
        served(store) as url,
        RegistryClient(url, keys["operator"]) as client,
    ):
        client.execute(CreateDomain("medical"))
        client.add_base(TINY)
        soon = write(datetime.now(UTC) + timedelta(seconds=2))
        keys["expired"] = client.issue_key("old", ["publish:medical"], expires=soon)["key"]
        revoked = client.issue_key("left", ["publish:medical"])
        client.execute(RevokeKey(revoked["id"], "left"))
        keys["revoked"] = revoked["key"]
        keys["reader"] = client.issue_key("reader", ["infer:medical"])["key"]
        adapter = write_adapter(folder / "adapter")
        client.push(adapter, "medical/coder")
        client.execute(MoveAlias("medical", "coder", "beta", 1))
        broken = write_adapter(folder / "pickled")
        (broken / "training_args.bin").write_bytes(b"\x80\x04.")
        (folder / "file.txt").write_text("text\n")
        (folder / "broken.yaml").write_text("approvals: [\n")
        (folder / "policy.yaml").write_text("aprovals: 2\n")
        (folder / "broken.tar").write_bytes(b"not a tar")
        (folder / "curve.json").write_text("{}")
        (folder / "latin.json").write_bytes(b"\xff\xfe")
        (folder / "out").mkdir()
        time.sleep(2.5)
        yield Place(folder, url, store.url, keys)


@contextmanager
def served(store: LocalStore) -> Iterator[str]:
    """The registry's service in a thread of this process; yields its URL."""
    app = create_app(RegistrySettings(store=str(store.root)))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@dataclass(frozen=True)
class Mistake:
    """What is typed, with which settings, and what must be answered."""

    typed: str
    code: int
    words: str
    settings: dict[str, str]


def mistake(typed: str, code: int, words: str, **settings: str) -> Mistake:
    return Mistake(typed, code, words, settings)


NOBODY = "http://127.0.0.1:9"
MISTAKES = [
    # What was typed
    mistake("psuh", USAGE, "Did you mean 'push'"),
    mistake("alias mv", USAGE, "No such command 'mv'"),
    mistake("push", USAGE, "Missing argument"),
    mistake("push {folder}/adapter medical/coder --bsae tiny", USAGE, "--base"),
    mistake("push {folder}/adapter medical/coder --parallel many", USAGE, "--parallel"),
    mistake("push {folder}/adapter medical/coder --parallel 99", USAGE, "less than or equal to 32"),
    mistake("push {folder}/adapter medical", USAGE, "Write DOMAIN/ADAPTER"),
    mistake("approve medical/coder", USAGE, "DOMAIN/ADAPTER@VERSION"),
    mistake("canary start medical/coder@1 --candidate 1", USAGE, "Write DOMAIN/ADAPTER@ALIAS"),
    mistake("execute MoveAlais", USAGE, "List them: lorary execute"),
    mistake("execute MoveAlias domian=medical", USAGE, "domain=..."),
    mistake("key issue app --grant infer", USAGE, "ROLE:DOMAIN"),
    mistake("key issue app --grant read:medical", USAGE, "infer, publish"),
    mistake("key issue app --grant infer:medical --expires tomorrow", USAGE, "2027-01-31"),
    mistake("domain policy medical --set approvals", USAGE, "approvals=2"),
    mistake("domain policy medical --approvals 0", USAGE, "--yes"),
    mistake("serve --gpu h100", USAGE, "--plan"),
    # Names that do not exist
    mistake("show medical/codr", NO, "Did you mean medical/coder"),
    mistake("push {folder}/adapter medcal/coder", NO, "Did you mean medical"),
    mistake("show medical/coder@7", NO, "Its newest is medical/coder@1"),
    mistake("show medical/coder@production", NO, "It has beta"),
    mistake("show medical", NO, "medical/coder"),
    mistake("key revoke raeder --reason left", NO, "Did you mean reader"),
    mistake("key revoke left --reason left", NO, "lorary key ls"),
    mistake("review close nothing", NO, "lorary review ls"),
    mistake("webhook rm https://nowhere.example", NO, "lorary webhook ls"),
    mistake("data medicla", USAGE, "medical"),
    mistake("train medicla", USAGE, "Did you mean medical"),
    mistake("train medical stepz=3", USAGE, "steps"),
    mistake("train medical steps", USAGE, "KEY=VALUE"),
    mistake("suite ls medicla", NO, "medical"),
    mistake("domain policy medical {folder}/policy.yaml", USAGE, "Did you mean approvals"),
    # Files
    mistake("push {folder}/nothing medical/coder", NO, "There is no directory"),
    mistake("push {folder}/file.txt medical/coder", NO, "PEFT saved to"),
    mistake("push {folder}/out medical/coder", NO, "PEFT saved to"),
    mistake("push {folder}/pickled medical/coder", NO, "It is a pickle"),
    mistake("pull medical/coder@1 {folder}/file.txt", USAGE, "Name another place"),
    mistake("pull medical/coder@1 /proc/nothing/x", USAGE, "no such file or folder"),
    mistake("domain policy medical {folder}/missing.yaml", USAGE, "does not exist"),
    mistake("domain policy medical {folder}/out", USAGE, "Name a file"),
    mistake("domain policy medical {folder}/broken.yaml", USAGE, "broken.yaml"),
    mistake("domain policy medical {folder}/latin.json", USAGE, "UTF-8"),
    mistake("import {folder}/broken.tar", USAGE, "Export the", LORARY_STORE="{folder}/empty"),
    mistake("export {folder}/nowhere/registry.tar", USAGE, "Name another file"),
    mistake("convert {folder}/adapter {folder}/out", USAGE, "Choose another place"),
    mistake(
        "plan --curve {folder}/curve.json --adapters 9 --per-second 1", NO, "Make one"
    ),
    mistake("init --key-file {folder}/out", USAGE, "Name another file", LORARY_STORE="{folder}/x"),
    # Keys and roles
    mistake("ls", NO, "Set LORARY_KEY", LORARY_KEY=""),
    mistake("ls", NO, "Set LORARY_KEY", LORARY_KEY="sk-something"),
    mistake("ls", NO, "not known here", LORARY_KEY="lry_000000000000_x"),
    mistake("ls", NO, "expired on", LORARY_KEY="{expired}"),
    mistake("ls", NO, "was revoked", LORARY_KEY="{revoked}"),
    mistake("log", NO, "audit", LORARY_KEY="{reader}"),
    mistake("alias set medical/coder@1 production", NO, "1 more approval"),
    # Servers, stores and settings
    mistake("ls", UNKNOWN, "lorary serve-registry", LORARY_REGISTRY_URL=NOBODY),
    mistake("ls", USAGE, "http://", LORARY_REGISTRY_URL="127.0.0.1:8100"),
    mistake("ls", UNKNOWN, "LORARY_REGISTRY_URL", LORARY_REGISTRY_URL="http://[/"),
    mistake("ls", NO, "Not Found", LORARY_REGISTRY_URL="{url}/nothing"),
    mistake("gate medical/coder@1", NO, ""),
    mistake("gate medical/coder@1", UNKNOWN, "serve-registry", LORARY_REGISTRY_URL=NOBODY),
    mistake("eval medical/coder@1 --url " + NOBODY, UNKNOWN, "--url"),
    mistake("harness medical/coder@1 x --url " + NOBODY, UNKNOWN, "--url"),
    mistake("verify", NO, "holds no registry", LORARY_STORE="{folder}/empty"),
    mistake("export {folder}/x.tar", USAGE, "no registry", LORARY_STORE="{folder}/empty"),
    mistake("init", NO, "already", LORARY_STORE="{store}"),
    mistake("init", USAGE, "s3://", LORARY_STORE="ftp://host/x"),
    mistake("serve", USAGE, "LORARY_PORT", LORARY_PORT="eight"),
    mistake("config", USAGE, "LORARY_MAX_LORA_RANK", LORARY_MAX_LORA_RANK="17"),
    mistake("serve", NO, "LORARY_MODEL", LORARY_MODEL="/nothing"),
    mistake("serve-registry --port {taken}", NO, "in use"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", MISTAKES, ids=lambda wrong: wrong.typed)
def test_a_mistake_gets_one_sentence_with_a_remedy_and_the_right_exit_code(
    wrong: Mistake,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = {
        "folder": str(place.folder),
        "url": place.url,
        "store": place.store,
        "taken": place.url.rpartition(":")[2],
        **place.keys,
    }
    settings = {
        "LORARY_REGISTRY_URL": place.url,
        "LORARY_KEY": place.keys["operator"],
        "LORARY_STORE": place.store,
        "LORARY_HOME": str(place.folder / "home"),
        "COLUMNS": "80",
    }
    for name, value in (settings | wrong.settings).items():
        monkeypatch.setenv(name, value.format_map(known))
    arguments = [word.format_map(known) for word in wrong.typed.split()]
    code = exits.run(lambda: typer.main.get_command(build()), arguments)
    shown = capsys.readouterr()
    text = " ".join((shown.err + shown.out).split())
    assert (code, wrong.words in text) == (wrong.code, True), f"{code}: {text}"
    assert "Traceback" not in text
    if shown.err.strip():
        *before, last = shown.err.strip().splitlines()
        if "pickle" not in wrong.words:  # a refused adapter lists all its problems
            assert last.startswith("lorary: "), shown.err
            # A policy's differences are shown before somebody is asked to confirm them.
            assert not before or "--approvals" in wrong.typed, shown.err


def test_there_are_thirty_mistakes_and_each_exit_code_is_documented() -> None:
    assert len(MISTAKES) >= 30
    assert {wrong.code for wrong in MISTAKES} <= EXIT_CODES.keys()


@pytest.mark.parametrize("typed", ["ls", "config", "execute"])
def test_output_to_a_full_disk_is_one_sentence(typed: str, place: Place) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [str(BIN / "lorary"), typed, "--json"], stdout=full, stderr=subprocess.PIPE, text=True,
            env={
                **os.environ, "LORARY_REGISTRY_URL": place.url,
                "LORARY_KEY": place.keys["operator"],
            },
            check=False,
        )  # fmt: skip
    assert done.returncode == NO
    assert done.stderr == "lorary: The disk is full. Free space there, or name another place.\n"


def test_a_reader_that_stops_reading_is_no_error(place: Place) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{BIN / 'lorary'} config --json | head -c 1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("{", "")


def raising(error: BaseException) -> Callable[..., None]:
    def main(*_: object, **__: object) -> None:
        raise error

    return main


class Failing:
    def __init__(self, error: BaseException) -> None:
        self.main = raising(error)


def test_an_error_of_ours_names_a_file_with_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = exits.run(lambda: Failing(TypeError("no such thing")), [])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == exits.INTERNAL
    assert line.startswith("lorary: An error in Lorary itself (TypeError: no such thing).")
    report = Path(line.split()[-1])
    assert "Traceback" in report.read_text()
    report.unlink()


def test_ctrl_c_is_no_error_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert exits.run(lambda: Failing(KeyboardInterrupt()), []) == exits.INTERRUPTED
    assert capsys.readouterr().err == "lorary: Interrupted. Nothing more is done.\n"


def test_every_kind_of_full_or_closed_disk_has_its_remedy() -> None:
    for number, remedy in exits._REMEDIES.items():
        code, message = exits.described(OSError(number, "x", "/some/file"))
        assert code in (NO, USAGE)
        assert message == f"/some/file: {remedy}"
