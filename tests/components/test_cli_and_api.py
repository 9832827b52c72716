"""A team's day with the real command line against a real registry service.

Where files are written, read and collected, on both stores; what is only decided, on one."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import numpy as np
import psutil
import pytest
from safetensors.numpy import save

from registry import errors
from registry.cli import run as lorary
from registry.client import AsyncRegistryClient, RegistryClient
from registry.model.aliases import MoveAlias
from registry.registry import Registry
from registry.signing import fingerprint
from registry.store import LocalStore, ObjectStore
from tests.support.adapters import TINY, write_adapter
from tests.support.keys import key_pair
from tests.support.servers import BIN, free_port, registry_in_thread, registry_server, running


class Shell:
    """Runs `lorary` as a person or a script would; within this process unless it is a real one."""

    def __init__(
        self, url: str, key: str, store: str, home: Path, *, is_real: bool = False
    ) -> None:
        self.url, self.key, self.is_real = url, key, is_real
        self.environment = {
            **os.environ,
            "LORARY_REGISTRY_URL": url,
            "LORARY_KEY": key,
            "LORARY_STORE": store,
            "LORARY_HOME": str(home),
        }

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = self._process(*arguments) if self.is_real else self._within(*arguments)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def _process(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "lorary"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def _within(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        out, err = StringIO(), StringIO()
        with (
            patch.dict(os.environ, self.environment, clear=True),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = lorary(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    def as_key(self, key: str) -> "Shell":
        shell = Shell(self.url, key, "", Path(), is_real=self.is_real)
        shell.environment = {**self.environment, "LORARY_KEY": key}
        return shell


@pytest.fixture
def shell(local_store: LocalStore, tmp_path: Path) -> Iterator[Shell]:
    key = Registry.create(local_store, name="team", key_name="operator").text
    with registry_in_thread(local_store.url) as url:
        yield Shell(url, key, local_store.url, tmp_path / "home")


@pytest.fixture
def shell_on_s3(s3_store: ObjectStore, tmp_path: Path) -> Iterator[Shell]:
    key = Registry.create(s3_store, name="team", key_name="operator").text
    with registry_server(s3_store.url, tmp_path) as url:
        yield Shell(url, key, s3_store.url, tmp_path / "home", is_real=True)


def write_model(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    weights: dict[str, np.ndarray] = {
        f"{module}.weight": np.zeros(shape, np.float32) for module, shape in TINY.modules.items()
    }
    weights["model.embed_tokens.weight"] = np.zeros((32, 16), np.float32)
    weights["model.norm.weight"] = np.zeros(16, np.float32)
    (directory / "model.safetensors").write_bytes(save(weights))
    return directory


def test_a_team_publishes_promotes_looks_and_pulls(shell_on_s3: Shell, tmp_path: Path) -> None:
    shell = shell_on_s3
    shell.run("domain", "create", "medical", "--no-guard")
    model = write_model(tmp_path / "tiny")
    assert shell.json("base", "add", str(model))["modules"] == len(TINY.modules)
    publisher = shell.json("key", "issue", "team", "--grant", "publish:medical")["key"]
    team = shell.as_key(publisher)
    first = write_adapter(tmp_path / "first", seed=1)
    pushed = team.json("push", str(first), "medical/coder", "--alias", "production")
    assert pushed["ref"] == "medical/coder@1"
    assert team.json("push", str(first), "medical/coder")["ref"] == "medical/coder@1"
    second = write_adapter(tmp_path / "second", seed=2)
    assert team.json("push", str(second), "medical/coder")["ref"] == "medical/coder@2"
    team.run("alias", "set", "medical/coder@2", "production", "--expected", "1")
    lost = team.run("alias", "set", "medical/coder@1", "production", "--expected", "1", status=1)
    assert "names version 2, not 1" in lost.stderr
    bounded = ["--percent", "5", "--max-error-rate", "0.02", "--min-requests", "80"]
    team.run("canary", "start", "medical/coder@production", "--candidate", "1", *bounded)
    split = team.json("ls")[0]["splits"]["production"]
    assert (split["candidate"], split["percent"]) == (1, 5)
    assert split["bounds"] == {
        "max_error_rate": 0.02,
        "max_latency_ratio": 2.0,
        "max_negative_share": 0.5,
        "min_requests": 80,
        "min_askers": 2,
    }
    too_much = ["--percent", "5", "--max-error-rate", "2"]
    team.run("alias", "split", "medical/coder@1", "production", *too_much, status=2)
    shell.run("domain", "default", "medical", "coder")
    (listed,) = team.json("ls")
    assert listed["aliases"] == {"production": 2}
    assert [m["version"] for m in team.json("alias", "ls", "medical/coder")["moves"]] == [1, 2]
    assert team.json("show", "medical")["ref"] == "medical/coder@2"
    out = tmp_path / "pulled"
    team.run("pull", "medical/coder@1", str(out))
    for file in first.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    report = shell.json("verify")
    assert report["sound"]
    assert report["versions"] == 2
    events = [e["event"]["type"] for c in shell.json("log") for e in c["entries"]]
    assert events.count("VersionPublished") == 2
    assert "secret" not in shell.run("log", "--json").stdout
    assert "Forbidden" not in team.run("log", status=1).stderr
    for command in (
        ["ls"],
        ["show", "medical"],
        ["log"],
        ["key", "ls"],
        ["domain", "ls"],
        ["base", "ls"],
        ["alias", "ls", "medical/coder"],
        ["verify"],
        ["config"],
    ):
        assert shell.run(*command).stdout.strip()  # fmt: skip


def test_a_snapshot_of_a_hub_cache_is_pushed_under_whatever_name_its_base_has(
    shell: Shell, tmp_path: Path
) -> None:
    shell.run("domain", "create", "bugs", "--no-guard")
    model = str(write_model(tmp_path / "tiny"))
    shell.run("base", "add", model)
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "0123"
    made = write_adapter(tmp_path / "made")
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(made.iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    described = snapshot / "adapter_config.json"

    def declare(base: str | None) -> None:
        config = {**json.loads(described.read_text()), "base_model_name_or_path": base}
        described.write_text(json.dumps(config))

    declare("unsloth/tiny-bnb-4bit")
    assert "--base NAME" in shell.run("push", str(snapshot), "bugs/x", status=1).stderr
    shell.run("base", "add", model, "--known-as", "unsloth/Tiny-bnb-4bit")
    assert shell.json("push", str(snapshot), "bugs/x")["ref"] == "bugs/x@1"
    for version, declared in enumerate(("/home/anna/tiny", None), 2):
        declare(declared)
        refused = shell.run("push", str(snapshot), "bugs/x", status=1)
        assert "--base NAME" in " ".join(refused.stderr.split())
        pushed = shell.json("push", str(snapshot), "bugs/x", "--base", "tiny")
        assert pushed["ref"] == f"bugs/x@{version}"
    pushed = shell.json("push", str(snapshot), "bugs/Llama-3.1_x", "--base", "tiny")
    assert pushed["ref"] == "bugs/Llama-3.1_x@1"
    refused = shell.run("push", str(snapshot), "bugs/llama-3.1_X", "--base", "tiny", status=1)
    assert "bugs/Llama-3.1_x exists" in " ".join(refused.stderr.split())
    refused = shell.run("push", str(snapshot), "bugs/neu Name", "--base", "tiny", status=2)
    assert "such as 'neu-name'" in " ".join(refused.stderr.split())


def test_a_guarded_alias_takes_another_experts_approval(shell: Shell, tmp_path: Path) -> None:
    shell.run("domain", "create", "medical", "--approvals", "1")
    shell.run("base", "add", str(write_model(tmp_path / "tiny")))
    team = shell.as_key(
        shell.json(
            "key", "issue", "team", "--grant", "publish:medical", "--grant", "approve:medical"
        )["key"]
    )
    expert = shell.as_key(shell.json("key", "issue", "dr", "--grant", "approve:medical")["key"])
    directory = write_adapter(tmp_path / "adapter")
    refused = team.run("push", str(directory), "medical/coder", "--alias", "production", status=1)
    assert "1 more approval" in refused.stderr
    assert "cannot approve" in team.run("approve", "medical/coder@1", status=1).stderr
    expert.run("approve", "medical/coder@1")
    team.run("alias", "set", "medical/coder@1", "production")
    revoked = shell.run("revoke", "medical/coder@1", "--reason", "wrong for sepsis")
    assert "medical/coder@production still points to it" in revoked.stderr
    assert "production -> 1 (NOT SERVED)" in team.run("ls").stdout
    assert team.json("ls")[0]["outages"] == {"production": "revoked: wrong for sepsis"}
    assert team.json("show", "medical/coder@1")["revoked"] == "wrong for sepsis"


def test_a_refused_push_names_every_problem(shell: Shell, tmp_path: Path) -> None:
    shell.run("domain", "create", "medical", "--no-guard", "--card-section", "Limits")
    shell.run("base", "add", str(write_model(tmp_path / "tiny")))
    directory = write_adapter(tmp_path / "adapter", use_dora=True)
    (directory / "training_args.bin").write_bytes(b"\x80\x04.")
    done = shell.run("push", str(directory), "medical/coder", status=1)
    for words in ("use_dora asks for DoRA", "training_args.bin: It is a pickle", "'Limits'"):
        assert words in done.stderr
    assert shell.json("ls") == []


def test_other_domains_are_closed_and_errors_arrive_as_their_classes(
    local_store: LocalStore, tmp_path: Path
) -> None:
    key = Registry.create(local_store, name="team", key_name="operator").text
    with registry_server(local_store.url, tmp_path) as url:
        look_elsewhere(Shell(url, key, local_store.url, tmp_path / "home"), tmp_path)


def look_elsewhere(shell: Shell, tmp_path: Path) -> None:
    for domain in ("medical", "legal"):
        shell.run("domain", "create", domain, "--no-guard")
    shell.run("base", "add", str(write_model(tmp_path / "tiny")))
    directory = write_adapter(tmp_path / "adapter")
    shell.run("push", str(directory), "medical/coder", "--alias", "production")
    lawyer = shell.json("key", "issue", "lawyer", "--grant", "publish:legal")["key"]
    with RegistryClient(shell.url, lawyer) as client:
        assert client.adapters() == []
        for refused in (
            lambda: client.resolve("medical/coder@1"),
            lambda: client.resolve("medical/nothing@1"),
            lambda: client.push(directory, "medical/coder"),
            lambda: client.execute(MoveAlias("medical", "coder", "production", 1)),
            lambda: list(client.log()),
        ):
            with pytest.raises(errors.Forbidden):
                refused()
        with pytest.raises(errors.UnknownAdapter):
            client.resolve("legal/nothing@1")
    with RegistryClient(shell.url, "lry_x_y") as client, pytest.raises(errors.Unauthenticated):
        client.adapters()
    (log,) = tmp_path.glob("registry-*.log")
    written = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    records = [record for record in written if record["event"] == "refused"]
    key = lawyer.split("_")[1]
    assert {"/api/v1/log", "/api/v1/resolve/medical/coder@1"} <= {
        record["path"] for record in records if record["actor"] == key and record["status"] == 403
    }
    assert all(record["reason"] and record["method"] for record in records)
    assert lawyer not in log.read_text()
    nobody = RegistryClient(f"http://127.0.0.1:{free_port()}", "")
    with nobody, pytest.raises(errors.StoreUnavailable, match="does not answer"):
        nobody.adapters()


def test_uploads_are_bounded_verified_and_never_held_in_memory(
    store_url: str, store: ObjectStore, tmp_path: Path
) -> None:
    key = Registry.create(store, name="uploads", key_name="operator").text
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    headers = {"Authorization": f"Bearer {key}"}
    with running(
        [str(BIN / "lorary"), "serve-registry", "--port", str(port)],
        tmp_path / "log",
        ready=f"{url}/health",
        environment={"LORARY_STORE": store_url, "LORARY_MAX_UPLOAD_BYTES": str(64 << 20)},
    ) as server:
        blob = f"{url}/api/v1/blobs/{'0' * 64}"
        before = psutil.Process(server.pid).memory_info().rss

        def pieces() -> Iterator[bytes]:
            for _ in range(60):
                yield b"x" * (1 << 20)

        wrong = httpx.put(
            blob, content=pieces(), headers={**headers, "Content-Length": str(60 << 20)}, timeout=60
        )
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "digest_mismatch")
        grown = psutil.Process(server.pid).memory_info().rss - before
        assert grown < 40 << 20
        assert refused_early(blob, headers)
        assert httpx.put(blob, content=b"", headers=headers).status_code == 422
        for path, body in (("/api/v1/uploads", "{"), ("/api/v1/keys", '{"name": 1}')):
            bad = httpx.post(url + path, content=body, headers=headers)
            assert bad.status_code == 400
            assert set(bad.json()["error"]) == {"message", "type", "param", "code"}
        assert httpx.get(f"{url}/nothing").json()["error"]["code"] == "not_found"
        assert httpx.get(f"{url}/health").json()["status"] == "ok"


def refused_early(url: str, headers: dict[str, str]) -> bool:
    """Whether 200 MB are refused while most of them are still unsent."""
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(200):
            sent += 1
            yield b"x" * (1 << 20)

    declared = {**headers, "Content-Length": str(200 << 20)}
    try:
        status = httpx.put(url, content=pieces(), headers=declared, timeout=60).status_code
    except httpx.TransportError:
        status = 413  # the server answered and closed while we were still sending
    return status == 413 and sent < 100


def test_a_domain_that_requires_signatures_takes_only_signed_versions(
    shell: Shell, tmp_path: Path
) -> None:
    private, public = key_pair(tmp_path / "keys")
    pem = tmp_path / "public.pem"
    pem.write_text(public)
    shell.run(
        "domain", "create", "medical", "--no-guard", "--signer", str(pem), "--require-signature"
    )
    shell.run("base", "add", str(write_model(tmp_path / "tiny")))
    adapter = write_adapter(tmp_path / "adapter")
    refused = shell.run("push", str(adapter), "medical/coder", status=1)
    assert "requires a signature" in refused.stderr
    version = shell.json("push", str(adapter), "medical/coder", "--sign", str(private))
    assert version["signer"] == fingerprint(public)
    sound = shell.json("verify", "medical/coder@1", "--public-key", str(pem))
    assert sound["signer"] == fingerprint(public)
    _, stranger = key_pair(tmp_path / "others")
    (tmp_path / "stranger.pem").write_text(stranger)
    other = str(tmp_path / "stranger.pem")
    assert (
        "No key" in shell.run("verify", "medical/coder@1", "--public-key", other, status=1).stderr
    )


def test_who_may_move_production_is_the_policy_s_to_say(shell: Shell, tmp_path: Path) -> None:
    shell.run("domain", "create", "medical", "--approvals", "0", "--guarded-role", "operate")
    shell.run("base", "add", str(write_model(tmp_path / "tiny")))
    key = shell.json("key", "issue", "team", "--grant", "publish:medical")["key"]
    team = shell.as_key(key)
    team.run("push", str(write_adapter(tmp_path / "adapter")), "medical/coder")
    team.run("alias", "set", "medical/coder@1", "candidate")
    refused = team.run("alias", "set", "medical/coder@1", "production", status=1)
    assert "operate" in refused.stderr
    shell.run("alias", "set", "medical/coder@1", "production")


def test_a_registry_is_tidied_exported_and_brought_back(shell_on_s3: Shell, tmp_path: Path) -> None:
    shell = shell_on_s3
    shell.run("domain", "create", "medical", "--no-guard", "--keep", "1")
    shell.run("base", "add", str(write_model(tmp_path / "tiny")))
    for seed in (1, 2):
        directory = write_adapter(tmp_path / str(seed), seed=seed)
        shell.run("push", str(directory), "medical/coder")
    assert "Would remove" in shell.run("gc", "--grace-hours", "0").stdout
    time.sleep(1.1)  # what S3 says of an object's age is whole seconds
    report = shell.json("gc", "--apply", "--grace-hours", "0")
    assert report["expired"] == ["medical/coder@1"]
    assert report["blobs"] >= 2
    gone = shell.run("pull", "medical/coder@1", str(tmp_path / "out"), status=1)
    assert "no longer kept" in gone.stderr
    shell.run("export", str(tmp_path / "registry.tar"))
    elsewhere = shell.as_key(shell.key)
    elsewhere.environment["LORARY_STORE"] = str(tmp_path / "restored")
    elsewhere.run("import", str(tmp_path / "registry.tar"))
    assert elsewhere.json("verify")["sound"]


async def _look(url: str, key: str) -> list[str]:
    async with AsyncRegistryClient(url, key) as registry:
        domains, bases = await asyncio.gather(registry.domains(), registry.bases())
        assert bases == []
        with pytest.raises(errors.UnknownAdapter):
            await registry.resolve("medical/none")
        return [domain["name"] for domain in domains]


def test_the_same_verbs_can_be_awaited(shell: Shell) -> None:
    shell.run("domain", "create", "medical")
    assert asyncio.run(_look(shell.url, shell.key)) == ["medical"]
