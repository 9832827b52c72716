"""Judging an adapter with a classification head, against a server whose answers are known."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from adapters.home import cache
from adapters.packs import PACKS, Item
from adapters.tasks import parse
from eval import scoring
from eval.asking import Server
from eval.baseline import classify
from eval.cli import judging
from eval.errors import EngineUnknown, EvaluationFailed, UnknownSuite, WrongBytes
from eval.heads import PLAIN, HeadSuite, evaluate_head, suite_of
from eval.served import Model
from eval.statistics import Discordance, mcnemar
from eval.suites import suites_of
from eval.suites.suite import Question, Suite, Task
from registry.client import RegistryClient
from tests.support.oracle import ENGINE, Oracle, serving
from tests.unit.test_task_folder import content

VERSION = Model("medical/head@2", "2" * 64)
BASE = Model("tiny", "0" * 64, is_base=True)
LABELS = ("Ear", "Eye")
TRAIN = tuple(Item(f"{word} {n}", label, f"{n}") for n in range(20)
              for word, label in (("cornea", "Eye"), ("drum", "Ear")))  # fmt: skip
ITEMS = tuple(Item(f"{word} {n}", label, f"unit {n // 2}") for n in range(100, 120)
              for word, label in (("cornea", "Eye"), ("drum", "Ear")))  # fmt: skip
QUESTIONS = tuple(
    Question(id=item.text, unit=item.unit, prompt=item.text, target=item.label) for item in ITEMS
)
TASK = Task(name="ears-labels", role="accuracy", questions=QUESTIONS)
SUITE = HeadSuite(Suite(name="ears-labels", domain="medical", tasks=(TASK,), labels=LABELS), TRAIN)
TEXTS = {item.text: item.label for item in ITEMS}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = cache("sources")
    sources.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "sources").symlink_to(sources)
    monkeypatch.setenv("LORARY_HOME", str(tmp_path))


def answer(_model: str, text: str) -> tuple[str, float]:
    """Right but for every tenth item."""
    wrong = int(text.rpartition(" ")[2]) % 10 == 0
    right = TEXTS[text]
    return (next(label for label in LABELS if label != right) if wrong else right), 0.8


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    with serving(Oracle(answer, {VERSION.name: VERSION.digest})) as running:
        yield running


def test_accuracy_is_counted_beside_the_plain_classifiers_on_the_same_items(
    oracle: Oracle,
) -> None:
    steps: list[int] = []
    found = evaluate_head(
        Server(oracle.url, "", ENGINE), VERSION, BASE, SUITE,
        progress=lambda _, n: steps.append(n),
    )  # fmt: skip
    (result,) = found.results
    units = [item.unit for item in ITEMS]
    right = [answer("", item.text)[0] == item.label for item in ITEMS]
    plain = [a == item.label for a, item in zip(classify(TRAIN, ITEMS), ITEMS, strict=True)]
    assert result.tallies["accuracy"] == scoring.tally(right, units)
    assert (result.tallies["accuracy"].hits, result.tallies["accuracy"].n) == (36, 40)
    assert result.tallies[PLAIN] == scoring.tally(plain, units)
    assert all(plain), "whose words tell everything"
    compared = found.report["suites"][0]["plain"]
    assert (compared["gained"], compared["lost"], compared["n"]) == (0, 4, 40)
    assert compared["p"] == pytest.approx(mcnemar(Discordance(0, 4, 40)))
    assert (result.digest, result.held_out) == (SUITE.suite.digest, SUITE.suite.held_out)
    assert found.calibration is None
    assert sum(steps) == len(SUITE) == 40
    assert found.body(VERSION.digest)["engine"]["name"] == "vllm 0.32.0"


def test_what_was_answered_is_not_asked_again_unless_it_is_wanted(oracle: Oracle) -> None:
    server = Server(oracle.url, "", ENGINE)
    oracle.broken_after = 16
    with pytest.raises(EvaluationFailed, match="lorary serve --task classify"):
        evaluate_head(server, VERSION, BASE, SUITE)
    oracle.broken_after = None
    evaluate_head(server, VERSION, BASE, SUITE)
    evaluate_head(server, VERSION, BASE, SUITE)
    assert sorted(text for _, text in oracle.asked) == sorted(TEXTS)
    evaluate_head(server, VERSION, BASE, SUITE, fresh=True)
    assert len(oracle.asked) == 80


def test_other_bytes_and_another_engine_prove_nothing(oracle: Oracle) -> None:
    server = Server(oracle.url, "", ENGINE)
    oracle.digests[VERSION.name] = "1" * 64
    with pytest.raises(WrongBytes):
        evaluate_head(server, VERSION, BASE, SUITE)
    oracle.digests[VERSION.name] = VERSION.digest
    oracle.answering = structs.replace(ENGINE, dtype="bfloat16")
    with pytest.raises(EngineUnknown):
        evaluate_head(server, VERSION, BASE, SUITE, fresh=True)


@pytest.mark.parametrize("domain", PACKS)
def test_a_head_is_judged_by_the_held_out_texts_of_the_task_with_its_labels(domain: str) -> None:
    found = suite_of(domain, tuple(reversed(PACKS[domain].labels)))
    texts = {question.prompt for question in found.suite.tasks[0].questions}
    writing = next(s for s in suites_of(domain) if s.name == f"{domain}-task").task("accuracy")
    assert writing is not None
    assert texts == {question.id for question in writing.questions}, "the items of the written one"
    assert not texts & {item.text for item in found.train}
    assert found.limited(5).suite.held_out != found.suite.held_out
    assert replace(found, train=()).suite.digest == found.suite.digest


def test_labels_of_no_task_have_no_suite() -> None:
    with pytest.raises(UnknownSuite, match="No task of domain 'legal' has the labels"):
        suite_of("legal", ("a", "b"))


def test_a_head_of_a_teams_own_task_is_judged_by_that_tasks_held_out_texts() -> None:
    task = parse(content())
    found = suite_of("radiology", ("MRI", "CT"), [task])
    assert [q.prompt for q in found.suite.tasks[0].questions] == [
        item.text for item in task.side("held_out")
    ]
    assert [item.text for item in found.train] == [item.text for item in task.side("train")]
    with pytest.raises(UnknownSuite, match="exactly the labels"):
        suite_of("radiology", ("CT", "XR"), [task])


def test_a_head_is_judged_by_the_pushed_task_that_has_its_labels_else_by_a_shipped_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, registry = parse(content()), RegistryClient("http://127.0.0.1:9", "")
    monkeypatch.setattr(judging, "newest", lambda *_: ["other@1", "modality@1"])
    monkeypatch.setattr(judging, "_folder", lambda *_: task)

    def name(domain: str, labels: Sequence[str]) -> str:
        version = {"domain": domain, "facts": {"head": {"labels": labels}}}
        head, _ = judging.suites_for(registry, version, (), (), None, {})
        assert head is not None
        return head.suite.name

    assert name("radiology", ["MRI", "CT"]) == f"{task.spec.name}-labels"
    assert name("legal", PACKS["legal"].labels) == "legal-labels"
