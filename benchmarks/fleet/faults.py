"""A replica killed under load, one added, all restarted in turn; the dashboards drawn from it.

    python -m benchmarks.fleet.faults --pictures docs/figures/dashboards

Streams run all the while. Of each phase it tells how many were asked, how many failed and how, how
many broke off, and whether any was answered by another adapter than it asked for.
"""

import argparse
import asyncio
import json
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from benchmarks.fleet import pictures
from benchmarks.fleet.site import Fleet, fleet, kill, names, open_front, watch
from benchmarks.fleet.traffic import Answer, stream, zipf
from tests.support.scenario import Scene, play, prepare
from tests.support.showing import empty, unknown


@dataclass(frozen=True, slots=True)
class Phase:
    """What callers saw while something happened."""

    name: str
    seconds: float
    asked: int
    refused: dict[str, int]
    """Answers other than 200, by status; 0 is a connection that broke before any."""
    broken: int
    """Streams that began and did not end."""
    wrong: int
    """Answers by another adapter than was asked for."""


class Callers:
    """Streams in a thread of their own, until they are told to end."""

    def __init__(
        self, url: str, models: Sequence[str], headers: dict[str, str], count: int
    ) -> None:
        self.answers: list[Answer] = []
        self._ending = threading.Event()
        self._arguments = (url, models, headers, count)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    def end(self) -> None:
        """Let what runs end, then return."""
        self._ending.set()
        self._thread.join()

    async def _run(self) -> None:
        url, models, headers, count = self._arguments
        weights = zipf(len(models))

        async with httpx.AsyncClient(timeout=120) as client:

            async def caller(number: int) -> None:

                chooser = random.Random(number)
                while not self._ending.is_set():
                    [model] = chooser.choices(models, weights)
                    self.answers.append(await stream(client, url, model, headers))

            async with asyncio.TaskGroup() as group:
                for number in range(count):
                    group.create_task(caller(number))


def main() -> None:
    """Run the phases, print what callers saw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--adapters", type=int, default=12)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--phases", nargs="+", default=["kill", "add", "roll"])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--pictures", type=Path, help="draw the dashboards into this folder")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet(Path(folder), replicas=options.replicas, adapters=options.adapters) as made,
        httpx.Client(timeout=120) as client,
    ):
        envoy = open_front(made, "affinity")
        made.settle(options.replicas)
        watching = watch(made, "affinity")
        began = time.monotonic()
        scene = Scene(
            made.scene.registry, made.scene.operator, made.scene.base, envoy.url, made.scene.service
        )
        prepare(scene)
        time.sleep(2)
        models = names(options.adapters)
        callers = Callers(envoy.url, models, made.headers, options.callers)
        happening: dict[str, Callable[[], None]] = {
            "kill": lambda: _kill(made),
            "add": lambda: _add(made),
            "roll": lambda: _roll(made),
        }
        phases = []
        try:
            play(scene, client)
            for name in options.phases:
                phases.append(_phase(name, callers, happening[name]))
                print(f"  {phases[-1]}", flush=True)
            play(scene, client)
            time.sleep(3)
            play(scene, client)
            retries = envoy.counter("envoy_cluster_upstream_rq_retry", "pool")
        finally:
            callers.end()
        time.sleep(2)
        without = [*empty(watching), *unknown(watching)]
        print(f"\n{options.replicas} replicas, {options.callers} callers; Envoy asked again "
              f"{retries:.0f} times; panels without data: {without or 'none'}")  # fmt: skip
        for phase in phases:
            print(
                f"  {phase.name:5} {phase.seconds:5.0f} s  {phase.asked:4} asked, "
                f"refused {phase.refused or 'none'}, broken off {phase.broken}, wrong {phase.wrong}"
            )
        if options.json:
            options.json.write_text(
                json.dumps([asdict(phase) for phase in phases], indent=1) + "\n"
            )
        if options.pictures:
            pictures.draw_all(watching, options.pictures, seconds=time.monotonic() - began)


def _phase(name: str, callers: Callers, happen: Callable[[], None]) -> Phase:
    first, began = len(callers.answers), time.monotonic()
    time.sleep(5)
    happen()
    time.sleep(5)
    seen = callers.answers[first:]
    refused = Counter(str(answer.status) for answer in seen if answer.status != 200)
    return Phase(
        name=name,
        seconds=time.monotonic() - began,
        asked=len(seen),
        refused=dict(refused),
        broken=sum(answer.status == 200 and not answer.complete for answer in seen),
        wrong=sum(answer.wrong for answer in seen),
    )


def _kill(made: Fleet) -> None:
    kill(made.replicas[-1])
    made.settle(len(made.replicas) - 1)


def _add(made: Fleet) -> None:
    made.start(made.replicas[-1])
    made.settle(len(made.replicas))


def _roll(made: Fleet) -> None:
    for replica in made.replicas:
        kill(replica, how=signal.SIGTERM)
        if replica.process is not None:
            replica.process.wait()
        made.start(replica)
        made.settle(len(made.replicas))


if __name__ == "__main__":
    main()
