"""Answers count for the engine that gave them: none is passed off as another's, or as new."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file
from starlette.types import Message

from adapters.base_model import BaseModel
from eval.asking import Server, ask
from eval.cli.judging import _refuse_unpaid
from eval.errors import EngineUnknown, EvaluationFailed, UnpaidLook
from eval.evaluate import Subject, evaluate
from eval.served import engine_of
from registry.model.bases import RegisterBase
from registry.model.evidence import Engine
from serving.errors import CannotServe
from serving.gate import Gate
from serving.identity import describe, measured
from serving.launch import preflight
from serving.settings import ServingSettings
from tests.support.asking import chat, into, scope_of, whole
from tests.support.oracle import ENGINE, Oracle, serving
from tests.support.replicas import BASE as SERVED
from tests.support.replicas import Site, Upstream, answered
from tests.support.servers import free_port
from tests.unit.test_evaluate import BASE, DIGESTS, VERSION, answer
from tests.unit.test_evaluate import SUITE as WHOLE

SUITE = WHOLE.limited(6)
SUBJECT = Subject(version=VERSION, base=BASE)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORARY_HOME", str(tmp_path))


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    with serving(Oracle(answer, DIGESTS)) as running:
        yield running


def other(**changed: Any) -> Engine:
    return msgspec.structs.replace(ENGINE, **changed)


@pytest.mark.parametrize(
    "engine",
    [
        other(name="vllm 0.33.0"),
        other(dtype="bfloat16"),
        other(quantization="fp8"),
        other(base="1" * 64),
        other(device="NVIDIA H100"),
        other(settings={"max_model_len": "2048", "kv_cache_dtype": "fp8"}),
    ],
)
def test_another_engine_is_asked_everything_again(engine: Engine, oracle: Oracle) -> None:
    ask(Server(oracle.url, "", ENGINE), VERSION, SUITE)
    asked = len(oracle.asked)
    oracle.engine = engine
    ask(Server(oracle.url, "", engine), VERSION, SUITE)
    assert len(oracle.asked) == 2 * asked
    oracle.engine = ENGINE
    ask(Server(oracle.url, "", ENGINE), VERSION, SUITE)
    assert len(oracle.asked) == 2 * asked, "what the first engine said is kept"


def test_fresh_asks_anew_what_the_same_engine_answered(oracle: Oracle) -> None:
    server = Server(oracle.url, "", ENGINE)
    evaluate(server, SUBJECT, [SUITE])
    asked = len(oracle.asked)
    evaluate(server, SUBJECT, [SUITE])
    assert len(oracle.asked) == asked
    evaluate(server, SUBJECT, [SUITE], fresh=True)
    assert len(oracle.asked) == 2 * asked


def test_an_answer_by_another_engine_than_the_server_says_is_refused(oracle: Oracle) -> None:
    oracle.answering = other(quantization="fp8")
    with pytest.raises(EngineUnknown, match="Ask one replica"):
        ask(Server(oracle.url, "", ENGINE), VERSION, SUITE)


def test_another_base_than_the_registered_one_is_refused_before_it_is_asked(
    oracle: Oracle,
) -> None:
    with pytest.raises(EngineUnknown, match="registered with 000000000000"):
        evaluate(Server(oracle.url, "", other(base="f" * 64)), SUBJECT, [SUITE])
    assert oracle.asked == []


def test_the_record_says_what_answered_and_since_when(oracle: Oracle) -> None:
    assert engine_of(oracle.url, "", BASE.name) == ENGINE
    server = Server(oracle.url, "", ENGINE)
    first = evaluate(server, SUBJECT, [SUITE])
    body = first.body(VERSION.digest)
    assert msgspec.convert(body["engine"], Engine) == ENGINE
    assert first.report["engine"]["fingerprint"] == ENGINE.fingerprint
    assert body["answered"] == first.report["answered"]["first"] <= first.report["answered"]["last"]
    assert evaluate(server, SUBJECT, [SUITE]).report == first.report, "old answers keep their time"


def test_a_server_that_does_not_say_what_it_runs_proves_nothing(oracle: Oracle) -> None:
    oracle.engine = {"name": "vllm"}  # type: ignore[assignment]
    with pytest.raises(EngineUnknown, match="does not say which engine"):
        engine_of(oracle.url, "", BASE.name)
    with pytest.raises(EvaluationFailed, match="Check the server"):
        engine_of("http://127.0.0.1:9/v1", "", BASE.name)


def test_a_look_that_is_not_recorded_is_refused_where_looks_are_counted() -> None:
    policy = {"suites": [{"held_out": SUITE.held_out}]}
    with pytest.raises(UnpaidLook, match=r"items of toy\. Record"):
        _refuse_unpaid([SUITE], policy)
    _refuse_unpaid([SUITE.limited(5)], policy)
    _refuse_unpaid([SUITE], {})


def config(**changed: Any) -> Any:
    """vLLM's configuration as far as it is read; the real one is read in the journeys."""
    fields = {"dtype": "torch.float32", "quantization": None, "model": "/nowhere", "seed": 0,
              "enforce_eager": True, "max_model_len": 2048, "hf_overrides": {},
              "get_diff_sampling_param": lambda: {"temperature": 0.6}, **changed}  # fmt: skip
    return SimpleNamespace(
        model_config=SimpleNamespace(**fields),
        device_config=SimpleNamespace(device_type="cpu"),
        cache_config=SimpleNamespace(cache_dtype="auto"),
    )


def described(given: Any, args: Any) -> Engine:
    return describe(given, args, name="vllm 0.32.0", base="0" * 64)


def test_an_engine_is_described_by_whatever_may_change_its_answers(tmp_path: Path) -> None:
    plain = described(config(), SimpleNamespace(chat_template=None))
    assert (plain.dtype, plain.quantization, plain.device) == ("float32", "", "cpu")
    assert plain.settings["max_model_len"] == "2048"
    assert plain.settings["generation_config"] == '{"temperature": 0.6}'
    template = tmp_path / "chat.jinja"
    found = {plain.fingerprint}
    for text in ("one", "two"):
        template.write_text(text)
        args = SimpleNamespace(chat_template=str(template))
        found.add(described(config(), args).fingerprint)
    for changed in ({"dtype": "torch.bfloat16"}, {"quantization": "fp8"}, {"max_model_len": 9},
                    {"hf_overrides": {"rope": "x" * 999}}, {"model": str(tmp_path)},
                    {"get_diff_sampling_param": dict}):  # fmt: skip
        found.add(described(config(**changed), SimpleNamespace()).fingerprint)
    assert len(found) == 9
    assert all(len(text) <= 200 for text in described(config(), None).settings.values())


def test_answers_and_the_base_models_entry_tell_the_engine(site: Site, upstream: Upstream) -> None:
    site.replica.identity = ENGINE
    _, headers, _ = chat(site, upstream, "medical", site.medical)
    assert headers["x-lorary-engine"] == ENGINE.fingerprint
    found = []
    for name in (SERVED, "medical/coder@1"):
        sent: list[Message] = []
        scope = scope_of("GET", f"/v1/models/{name}", site.medical)
        asyncio.run(Gate(upstream, site.replica)(scope, whole(b""), into(sent)))
        found.append(json.loads(answered(sent)[2]).get("engine"))
    assert found == [msgspec.to_builtins(ENGINE), None]


def test_another_model_than_the_registered_one_is_not_served(site: Site, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for number, folder in enumerate((one, two)):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        save_file({"a.weight": np.full((2, 2), number, np.float32)}, folder / "model.safetensors")
    base = BaseModel.from_directory(one, "tiny-one")
    site.registry.execute(RegisterBase("tiny-one", base.digest, "1" * 64), site.operator.id)
    settings = ServingSettings(
        store=str(site.folder / "store"), base_name="tiny-one", model=str(two), port=free_port()
    )
    with pytest.raises(CannotServe, match="is not the model registered as 'tiny-one'"):
        preflight(settings)
    assert measured(str(one)) == base.digest != measured(str(two))
    assert measured("HuggingFaceTB/SmolLM2-135M-Instruct") == ""
