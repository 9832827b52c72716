"""A version judged through real vLLM has the numbers of lm-evaluation-harness's own clients."""

from pathlib import Path
from typing import Any

import pytest

from adapters.home import SMALL_MODEL
from adapters.packs import PACKS
from eval.harness import ServedModel, run
from eval.served import Answers, Asking, Model, engine_of
from eval.suites import suites_of
from registry.client import RegistryClient
from registry.errors import Forbidden
from tests.journeys.conftest import Site

PATH = f"medical/{PACKS['medical'].adapter}"
N = 24


@pytest.fixture(scope="module")
def meter(site: Site) -> str:
    """The evaluator's key."""
    issued = site.lorary(
        "key", "issue", "meter", "--grant", "infer:medical", "--grant", "evaluate:medical"
    )
    return str(issued["key"])


@pytest.fixture
def served(site: Site, meter: str, tmp_path: Path) -> ServedModel:
    digest = site.lorary("show", f"{PATH}@1")["digest"]
    answers = Answers(tmp_path / "answers.jsonl")
    return ServedModel(Asking(f"{site.api}/v1", meter, Model(f"{PATH}@1", digest), answers))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (suite,) = (suite for suite in suites_of("medical") if suite.name == "medical-task")
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
    ours = run(served, [task], folder)
    theirs = run(reference, [task], folder)
    assert ours["results"][task]["exact_match,answer"] > 0.3
    assert ours["results"][task] == pytest.approx(theirs["results"][task])
    assert texts(ours, task) == texts(theirs, task)


def texts(result: dict[str, Any], task: str) -> list[str]:
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"][0] for sample in samples]


def test_the_server_tells_the_engine_that_it_runs_and_each_answer_names_it(
    site: Site, meter: str
) -> None:
    import vllm

    engine = engine_of(f"{site.api}/v1", meter, SMALL_MODEL)
    base = next(b for b in site.lorary("base", "ls") if b["name"] == SMALL_MODEL)
    assert engine.base == base["digest"]
    assert (engine.name, engine.device) == (f"vllm {vllm.__version__}", "cpu")
    assert engine.quantization == ""
    assert engine.dtype in ("float32", "bfloat16", "float16")
    assert engine.settings["max_lora_rank"] == "16"
    assert {"kv_cache_dtype", "max_model_len", "model_files"} <= set(engine.settings)
    asked = site.client(meter).chat.completions.with_raw_response.create(
        model=f"{PATH}@1", messages=[{"role": "user", "content": "Hello"}], max_tokens=1
    )
    assert asked.headers["x-lorary-engine"] == engine.fingerprint


def test_the_publisher_cannot_record_evidence_without_the_role(
    site: Site,
) -> None:
    team = site.lorary("key", "issue", "team", "--grant", "publish:medical")["key"]
    with RegistryClient(site.registry, team) as client:
        digest = client.resolve(f"{PATH}@1")["digest"]
        body = {"digest": digest, "results": [{}], "calibration": None, "report": {}}
        with pytest.raises(Forbidden, match="evaluate"):
            client.record_evaluation(f"{PATH}@1", body)
