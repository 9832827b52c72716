"""A domain that Lorary ships nothing for: from an empty folder to a promoted, served version.

Only documented commands, on real vLLM. Each test is the next chapter.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from adapters.home import SMALL_MODEL, default_model
from adapters.tasks import read
from tests.journeys.conftest import run_lorary
from tests.support import radiology
from tests.support.servers import BIN, free_port, registry_server, running

pytestmark = pytest.mark.timeout(1800)

REF = "radiology/modality@1"
N = 24
"""Items of a part: as few as can show a clear difference."""


@dataclass
class Story:
    """Where everything is, and who acts."""

    folder: Path
    registry: str
    api: str
    keys: dict[str, str]

    @property
    def task(self) -> Path:
        return self.folder / "modality"

    def variables(self, who: str) -> dict[str, str]:
        return {
            "LORARY_REGISTRY_URL": self.registry,
            "LORARY_KEY": self.keys[who],
            "LORARY_API_URL": f"{self.api}/v1",
        }

    def act(self, who: str, *arguments: str) -> Any:
        return run_lorary(*arguments, **self.variables(who))

    def refused(self, who: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(BIN / "lorary"), *arguments],
            env={**self.variables(who), "COLUMNS": "200"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task's folder, begun by `lorary task new`, and an adapter that was trained for it."""
    folder = tmp_path_factory.mktemp("radiology")
    run_lorary("small-model")
    run_lorary("task", "new", str(folder / "modality"))
    radiology.write(folder / "modality")
    found = run_lorary("task", "check", str(folder / "modality"))
    assert found["problems"] == []
    assert found["items"]["train"] > 100
    told = run_lorary("train", "--task", str(folder / "modality"), "--out", str(folder / "adapter"))
    assert told["train_items"] == found["items"]["train"]
    return folder


@pytest.fixture(scope="module")
def story(trained: Path) -> Iterator[Story]:
    """A registry with the new domain, and vLLM."""
    folder = trained
    store, port = str(folder / "store"), free_port()
    run_lorary("init", "--key-file", str(folder / "operator.key"), LORARY_STORE=store)
    with registry_server(store, folder) as registry:
        told = Story(folder, registry, f"http://127.0.0.1:{port}", {})
        told.keys["operator"] = (folder / "operator.key").read_text().strip()
        told.act("operator", "base", "add", str(default_model()), "--name", SMALL_MODEL)
        told.act("operator", "domain", "create", "radiology")
        for name, roles in {
            "team": ("publish", "infer"), "meter": ("infer", "evaluate"), "Dr Chen": ("approve",),
            "app": ("infer",), "replica": ("serve",),
        }.items():  # fmt: skip
            grants = [part for role in roles for part in ("--grant", f"{role}:radiology")]
            told.keys[name] = told.act("operator", "key", "issue", name, *grants)["key"]
        told.act("team", "push", str(folder / "adapter"), "radiology/modality")
        with running(
            [str(BIN / "lorary"), "serve", "--port", str(port)],
            folder / "serve.log",
            ready=f"{told.api}/health",
            environment={
                "LORARY_STORE": store,
                "LORARY_REGISTRY_URL": registry,
                "LORARY_SERVING_KEY": told.keys["replica"],
                "LORARY_ADAPTER_CACHE": str(folder / "cache"),
            },
            seconds=600,
        ):
            yield told


def test_until_it_is_evaluated_it_cannot_become_production(story: Story) -> None:
    begun = subprocess.run(
        [str(BIN / "lorary"), "suite", "policy", "radiology", "--task", str(story.task),
         "--n", str(N)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    policy = yaml.safe_load(begun)
    (rule,) = policy["suites"]
    assert rule["suite"] == "modality"
    # As much as so few items can show.
    rule |= {"floors": {"accuracy": 0.3}, "margin": 0.3, "confident_errors": None}
    policy |= {"suites": [rule], "approvals": 1}
    (story.folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    story.act("operator", "domain", "policy", "radiology", str(story.folder / "policy.yaml"))
    said = story.refused("team", "alias", "set", REF, "production")
    assert "modality" in said
    assert "modality: report" in story.refused("team", "gate", REF)


def test_it_is_evaluated_by_the_teams_own_task(story: Story) -> None:
    out = story.folder / "report.html"
    found = story.act(
        "meter", "eval", REF, "--task", str(story.task), "--n", str(N), "--out", str(out)
    )
    (result,) = found["results"]
    assert result["suite"] == "modality"
    assert result["tallies"]["accuracy"]["n"] == N
    assert {"permitted answer", "same answer in other words"} <= set(result["tallies"])
    assert result["tallies"]["accuracy"]["hits"] / N > 0.6
    assert result["paired"][0]["gained"] > result["paired"][0]["lost"]
    assert found["calibration"]["n"] > 0
    assert "modality" in out.read_text()
    version = story.act("meter", "show", REF)
    assert version["evaluations"][-1]["results"][0]["digest"] == result["digest"]


def test_approved_it_is_promoted_and_answers_the_app(story: Story) -> None:
    story.act("Dr Chen", "approve", REF)
    assert story.act("team", "gate", REF)["met"]
    story.act("team", "alias", "set", REF, "production")
    task = read(story.task)
    item = next(item for item in task.side("held_out") if item.target == "MRI")
    with openai.OpenAI(base_url=f"{story.api}/v1", api_key=story.keys["app"]) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="radiology/modality",
            messages=[{"role": "user", "content": task.prompt(item)}],
            temperature=0,
            max_tokens=24,
        )
    assert answer.headers["x-lorary-digest"] == story.act("team", "show", REF)["digest"]
    assert (answer.parse().choices[0].message.content or "").strip() in radiology.LABELS
