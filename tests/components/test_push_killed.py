"""A push that is killed anywhere leaves a sound registry, and repeating it succeeds."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.log import checkpoints
from registry.maintain.verify import verify
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.publish.publishing import register_base
from registry.registry import Registry
from registry.store import ObjectStore
from tests.support.adapters import TINY, write_adapter
from tests.support.servers import BIN, registry_server


def begin(store: ObjectStore) -> str:
    """A registry with the tiny base and an unguarded domain; its operator's key."""
    secret = Registry.create(store, name="killed", key_name="operator")
    registry = Registry(store)
    register_base(registry, TINY, secret.id)
    registry.execute(CreateDomain("medical", Policy(guarded=())), secret.id)
    registry.close()
    return secret.text


def test_killed_at_every_step_of_the_store_it_stays_sound_and_the_repeat_succeeds(
    store: ObjectStore, store_url: str, tmp_path: Path
) -> None:
    # On S3 every ninth step: what differs there from step to step is only the time that it takes.
    stride = 9 if store_url.startswith("s3:") else 1
    operator = begin(store).split("_")[1]
    steps = version = 0
    with pushes(store_url, operator) as pushed:
        while True:
            # Another version for each step, so that every push has everything still to do.
            directory = write_adapter(tmp_path / str(steps), seed=steps)
            if not pushed(directory, steps):
                report = verify(store)
                assert report.sound, (steps, report.findings)
                assert pushed(directory, 10**6)
                version += 1
                adapter = checkpoints.load(store).adapters["medical/coder"]
                assert len(adapter.versions) == version, f"step {steps} doubled or lost a version"
                assert adapter.aliases == {"production": version}
                steps += stride
            else:
                break
    assert steps > 20
    assert verify(store).sound


@contextmanager
def pushes(url: str, operator: str) -> Iterator[Callable[[Path, int], bool]]:
    """Run a push to be killed at a step; whether it ended before that."""
    command = [sys.executable, "-m", "tests.support.killing", url, operator]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as forking:
        assert forking.stdin is not None
        assert forking.stdout is not None
        reading, writing = forking.stdout, forking.stdin

        def pushed(directory: Path, step: int) -> bool:
            print(directory, step, file=writing, flush=True)
            ended = int(reading.readline())
            assert ended in (0, -signal.SIGKILL)
            return ended == 0

        yield pushed


@pytest.mark.parametrize("victim", ["client", "registry"])
def test_client_or_registry_killed_mid_push_and_the_command_repeated(
    victim: str, s3_store: ObjectStore, tmp_path: Path
) -> None:
    store, store_url = s3_store, s3_store.url
    key = begin(store)
    directory = write_adapter(tmp_path / "adapter")
    for delay in (0.35, 0.45, 0.55):
        with registry_server(store_url, tmp_path) as url:
            push = subprocess.Popen(
                [str(BIN / "lorary"), "push", str(directory), "medical/coder"],
                env={**os.environ, "LORARY_REGISTRY_URL": url, "LORARY_KEY": key},
                stderr=subprocess.PIPE,
            )
            try:
                push.wait(delay)
            except subprocess.TimeoutExpired:
                if victim == "client":
                    push.kill()
            if victim == "registry":
                continue  # leaving the block ends the server under the running push
            push.wait(30)
        push.wait(30)
        assert verify(store).sound
    with registry_server(store_url, tmp_path) as url:
        done = subprocess.run(
            [str(BIN / "lorary"), "push", str(directory), "medical/coder", "--json"],
            env={**os.environ, "LORARY_REGISTRY_URL": url, "LORARY_KEY": key},
            check=True,
            capture_output=True,
            text=True,
        )
    assert '"ref": "medical/coder@1"' in done.stdout
    assert verify(store).sound
    assert len(checkpoints.load(store).adapters["medical/coder"].versions) == 1
