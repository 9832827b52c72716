"""A registry prepared for `tests.support.hub_calls`, and huggingface_hub in any version."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapters.home import home
from registry.client import RegistryClient
from registry.model.aliases import MoveAlias
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from tests.support.adapters import write_adapter
from tests.support.hub_calls.calls import Scene


def hub_version(version: str) -> str:
    """A folder that holds that version; the rest of the environment serves it."""
    folder = home() / "hubs" / version
    if not (folder / "huggingface_hub").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--target", str(folder), f"huggingface_hub=={version}"]
        major, minor = (int(part) for part in version.split(".")[:2])
        if major == 1 and 15 <= minor <= 21:
            command.append("typer==0.25.1")  # its command takes none that brings its own click
        subprocess.run(command, check=True)
    return str(folder)


def environment(url: str, key: str, work: Path, version: str | None) -> dict[str, str]:
    """The variables of a client; version: None for that of this environment."""
    variables = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_TOKEN": key,
        "HF_HOME": str(work / "home"),
        "HTTPS_PROXY": "http://127.0.0.1:9",  # nothing leaves this machine, whatever a client asks
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "PYTHONPATH": os.pathsep.join(
            [*([hub_version(version)] if version else []), str(Path(__file__).parents[2])]
        ),
    }
    variables.pop("HF_HUB_OFFLINE", None)
    return variables


def javascript(url: str, key: str, scene: Scene, version: str) -> list[dict[str, Any]]:
    """The same for @huggingface/hub, which npm installs; takes node."""
    folder, work = home() / "hubs" / f"javascript-{version}", Path(scene.work)
    package = f"@huggingface/hub@{version}"
    if not (folder / "node_modules").exists():
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--no-save", "--prefix", str(folder), package]
        subprocess.run(install, check=True)
    script = folder / "javascript.mjs"  # node looks for packages beside the script
    script.write_text((Path(__file__).parent / "hub_calls" / "javascript.mjs").read_text())
    (work / "scene.json").write_text(json.dumps(asdict(scene)))
    done = subprocess.run(
        ["node", str(script), str(work / "scene.json")],
        env={**os.environ, "HF_ENDPOINT": url, "HF_TOKEN": key},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def prepare(operator: RegistryClient, domain: str, work: Path) -> tuple[Scene, str]:
    """A domain as the calls expect it, and a key that publishes there."""
    folders = {
        name: write_adapter(work / name, seed=seed)
        for seed, name in enumerate(("first", "second", "third", "pickled"))
    }
    (folders["pickled"] / "adapter_model.bin").write_bytes(b"a pickle")
    operator.execute(CreateDomain(domain, Policy(guarded=("approved",))))
    kept = f"{domain}/kept"
    published = [operator.push(folders[name], kept) for name in ("first", "second", "third")]
    operator.execute(MoveAlias(domain, "kept", "live", 1))
    operator.execute(MoveAlias(domain, "kept", "production", 2))
    operator.push(folders["first"], f"{domain}/fresh")
    commits = [version["digest"][:40] for version in published]
    shown = {name: str(folder) for name, folder in folders.items()}
    key = operator.issue_key("a team", [f"publish:{domain}"])["key"]
    return Scene(domain, shown, commits, str(work)), key


def outcomes(
    url: str,
    key: str,
    scene: Scene,
    version: str | None,
    *,
    wanted: str = "",
    unwanted: str = "",
) -> Iterator[dict[str, Any]]:
    """Each call's name, outcome and reason, under that version.

    wanted, unwanted: how the names of calls begin, and how they do not; empty: any.
    """
    work = Path(scene.work)
    (work / "scene.json").write_text(json.dumps(asdict(scene)))
    command = [sys.executable, "-m", "tests.support.hub_calls", str(work / "scene.json")]
    command += [wanted, unwanted]
    done = subprocess.run(
        command,
        env=environment(url, key, work, version),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(done.stderr[-4000:])
    assert version is None or lines[0]["version"] == version
    yield from lines[1:]
