"""A version is judged through real vLLM, and the gate draws the conclusion."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.home import SMALL_MODEL, default_model
from adapters.packs import PACKS
from eval.harness import run
from eval.served import Answers, Model, ServedModel
from eval.suites import suites_of
from registry.client import RegistryClient
from registry.errors import Forbidden, PromotionNotEarned
from tests.journeys.conftest import Site, run_lorary
from tests.support.servers import BIN

PATH = f"medical/{PACKS['medical'].adapter}"
N = 24
SUITES = ("medical-task", "medical-general")


@pytest.fixture(scope="module")
def meter(site: Site) -> str:
    """The evaluator's key."""
    issued = site.lorary(
        "keys", "issue", "meter", "--grant", "infer:medical", "--grant", "evaluate:medical"
    )
    return str(issued["key"])


@pytest.fixture
def served(site: Site, meter: str, tmp_path: Path) -> ServedModel:
    digest = site.lorary("show", f"{PATH}@1")["digest"]
    answers = Answers(tmp_path / "answers.jsonl")
    return ServedModel(f"{site.api}/v1", meter, Model(f"{PATH}@1", digest), answers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for suite in suites_of("medical"):
        suite.limited(N).write(tmp_path / "tasks")
    return tmp_path / "tasks"


def test_generated_answers_score_as_the_harness_own_client_scores_them(
    site: Site, meter: str, served: ServedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.openai_completions import LocalChatCompletion

    monkeypatch.setenv("OPENAI_API_KEY", meter)
    reference = LocalChatCompletion(
        base_url=f"{site.api}/v1/chat/completions", model=f"{PATH}@1", num_concurrent=8
    )
    task = "lorary_medical_task"
    ours = run(served, [task], folder, chat=True)
    theirs = run(reference, [task], folder, chat=True)
    assert ours["results"][task]["exact_match,answer"] > 0.3
    assert ours["results"][task] == pytest.approx(theirs["results"][task])
    assert texts(ours, task) == texts(theirs, task)


def test_likelihoods_are_those_of_the_harness_own_client(
    site: Site, meter: str, served: ServedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    monkeypatch.setenv("OPENAI_API_KEY", meter)
    reference = LocalCompletionsAPI(
        base_url=f"{site.api}/v1/completions",
        model=f"{PATH}@1",
        tokenizer=str(default_model()),
        tokenizer_backend="huggingface",
        tokenized_requests=False,
        num_concurrent=8,
    )
    task = "lorary_medical_general"
    ours = run(served, [task], folder, chat=False, limit=8)
    theirs = run(reference, [task], folder, chat=False, limit=8)
    assert ours["results"][task]["acc,none"] == theirs["results"][task]["acc,none"]
    # Batches differ between the two, and with them the rounding of bfloat16.
    for mine, its in zip(likelihoods(ours, task), likelihoods(theirs, task), strict=True):
        assert mine == pytest.approx(its, abs=0.15)


def texts(result: dict[str, Any], task: str) -> list[str]:
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"][0] for sample in samples]


def likelihoods(result: dict[str, Any], task: str) -> list[float]:
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    return [float(resp[0]) for sample in samples for resp in sample["filtered_resps"]]


@pytest.fixture(scope="module")
def policy(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A gate before the alias `gated`: production is other journeys' business."""
    begun = subprocess.run(
        [str(BIN / "lorary"), "suites", "policy", "medical", "--n", str(N)],
        capture_output=True,
        text=True,
        check=True,
    )
    asked: dict[str, Any] = yaml.safe_load(begun.stdout)
    rules = [rule for rule in asked["suites"] if rule["suite"] in SUITES]
    for rule in rules:
        if rule["suite"] == "medical-task":
            # As much as this few items can show.
            rule |= {"floors": {"accuracy": 0.25}, "margin": 0.3, "confident_errors": None}
        else:
            rule |= {"margin": 0.5}
    asked |= {"guarded": ["gated"], "approvals": 1, "looks": 3, "suites": rules}
    file = tmp_path_factory.mktemp("policy") / "policy.yaml"
    file.write_text(yaml.safe_dump(asked))
    site.lorary("domain", "policy", "medical", str(file))
    yield asked
    site.lorary("domain", "policy", "medical", "--no-guard")


def judge(site: Site, meter: str, ref: str, out: Path) -> dict[str, Any]:
    chosen = [argument for suite in SUITES for argument in ("--suite", suite)]
    answer: dict[str, Any] = run_lorary(
        "eval", ref, *chosen, "--n", str(N), "--alias", "gated", "--url", f"{site.api}/v1",
        "--out", str(out), LORARY_REGISTRY_URL=site.registry, LORARY_KEY=meter,
    )  # fmt: skip
    return answer


def test_the_gate_lets_the_better_version_through_and_refuses_the_worse_with_reasons(
    site: Site, meter: str, policy: dict[str, Any], trained: dict[str, Path], tmp_path: Path
) -> None:
    expert = site.lorary("keys", "issue", "expert", "--grant", "approve:medical")["key"]
    found = judge(site, meter, f"{PATH}@1", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "It may not become gated" in page
    assert SMALL_MODEL in page
    assert found["calibration"]["n"] > 0
    with RegistryClient(site.registry, site.operator) as operator:
        lacking = [r for r in operator.requirements(f"{PATH}@1", "gated")["requirements"]
                   if not r["met"]]  # fmt: skip
        assert [r["name"] for r in lacking] == ["approvals"]
        with RegistryClient(site.registry, expert) as doctor:
            doctor.approve(f"{PATH}@1", found["digest"])
        operator.move_alias(PATH, "gated", 1)
        assert operator.resolve(f"{PATH}@1")["calibration"]["report"]
        # A specialist for law does not know medicine.
        worse = site.lorary("push", str(trained["legal"]), PATH)
        judged = judge(site, meter, worse["ref"], tmp_path / "report.json")
        result = judged["results"][0]
        assert result["paired"][1]["other"] == found["digest"]
        with RegistryClient(site.registry, expert) as doctor:
            doctor.approve(worse["ref"], worse["digest"])
        with pytest.raises(PromotionNotEarned, match="no worse than medical/icd10-coder@1"):
            operator.move_alias(PATH, "gated", worse["version"])
        with pytest.raises(PromotionNotEarned, match="accuracy at least 25 %"):
            operator.split_alias(PATH, "gated", worse["version"], 5)
    refused = subprocess.run(
        [str(BIN / "lorary"), "gate", worse["ref"], "--alias", "gated"],
        env={"LORARY_REGISTRY_URL": site.registry, "LORARY_KEY": site.operator, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "may not become gated yet" in refused.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["production"]["name"] == f"{PATH}@1"


def test_the_publisher_cannot_record_evidence_without_the_role(
    site: Site,
) -> None:
    team = site.lorary("keys", "issue", "team", "--grant", "publish:medical")["key"]
    with RegistryClient(site.registry, team) as client:
        digest = client.resolve(f"{PATH}@1")["digest"]
        body = {"digest": digest, "results": [{}], "calibration": None, "report": {}}
        with pytest.raises(Forbidden, match="evaluate"):
            client.record_evaluation(f"{PATH}@1", body)
