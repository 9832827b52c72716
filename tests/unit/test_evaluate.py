"""Judging a version with lm-evaluation-harness, against an API whose answers are known."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from adapters.confidence import Calibration
from adapters.home import cache
from adapters.packs.general import general_questions
from adapters.packs.vocabularies import invented
from adapters.tasks.scoring import Pattern
from eval import scoring
from eval.asking import Answer, Server, ask
from eval.errors import EvaluationFailed, UnknownSuite, WrongBytes
from eval.evaluate import Subject, evaluate, work
from eval.harness import ServedModel, run
from eval.served import Answers, Asking, Model
from eval.suites import suites_of
from eval.suites.suite import Question, Suite, Task
from registry.model.evidence import Paired, Tally
from tests.support.oracle import ENGINE, Oracle, serving

VERSION = Model("medical/coder@2", "2" * 64)
PRODUCTION = Model("medical/coder@1", "1" * 64)
BASE = Model("tiny", "0" * 64, is_base=True)
DIGESTS = {model.name: model.digest for model in (VERSION, PRODUCTION)}
LABELS = ("Eye", "Ear", "Skin")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are kept in a folder of the test's own; sources where they are anyway."""
    sources = cache("sources")
    sources.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "sources").symlink_to(sources)
    monkeypatch.setenv("LORARY_HOME", str(tmp_path))


def questions(n: int, kind: str = "item") -> tuple[Question, ...]:
    return tuple(
        Question(
            id=f"{kind} {i}", unit=f"unit {i // 2}", prompt=f"Which? {kind} {i}",
            target=LABELS[i % 3], hinted=f"Which of {', '.join(LABELS)}? {kind} {i}",
        )
        for i in range(n)
    )  # fmt: skip


SUITE = Suite(
    name="toy",
    domain="medical",
    labels=LABELS,
    tasks=(
        Task(name="toy", role="accuracy", questions=questions(60)),
        Task(name="toy-calibration", role="calibration", questions=questions(80, "spare")),
    ),
)
GENERAL = Suite(
    name="toy-general",
    domain="medical",
    tasks=(
        Task(
            name="toy-general",
            role="accuracy",
            questions=tuple(
                Question(id=f"q{i}", unit=f"q{i}", prompt=f"Question: q{i}", target="yes")
                for i in range(12)
            ),
        ),
    ),
)  # fmt: skip


def lot(*parts: str) -> float:
    return int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:8]) / 2**64


def truth(question: str) -> str:
    return LABELS[int(question.rsplit(" ", 1)[1]) % 3]


def answer(model: str, question: str) -> tuple[str, float]:
    """Version 2 is right 9 times in 10 and as sure as it should be; version 1 6 in 10; base 3."""
    skill = {VERSION.name: 0.9, PRODUCTION.name: 0.6, BASE.name: 0.3}[model]
    if question.startswith("Question:"):
        return ("yes" if lot(model, question) < skill else "no"), 0.9
    right = lot(model, question) < skill
    return (truth(question) if right else "Nose"), 0.95 if right else 0.4


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    with serving(Oracle(answer, DIGESTS)) as running:
        yield running


def test_an_evaluation_counts_pairs_and_calibrates(oracle: Oracle) -> None:
    subject = Subject(version=VERSION, base=BASE, production=PRODUCTION)
    steps = []
    found = evaluate(
        Server(oracle.url, "", ENGINE),
        subject,
        [SUITE, GENERAL],
        target_risk=0.3,
        progress=lambda _, n: steps.append(n),
    )
    assert sum(steps) == work([SUITE, GENERAL], subject)
    task, general = found.results
    right = {
        model.name: [
            answer(model.name, q.hinted if model.is_base else q.prompt)[0] == q.target
            for q in questions(60)
        ]
        for model in (VERSION, PRODUCTION, BASE)
    }
    assert task.tallies["accuracy"].hits == sum(right[VERSION.name])
    assert task.tallies["permitted answer"].hits == sum(right[VERSION.name])
    assert (task.digest, task.held_out) == (SUITE.digest, SUITE.held_out)
    against = {pair.other: pair for pair in task.paired}
    for other in (BASE, PRODUCTION):
        pair = against[other.digest]
        both = list(zip(right[VERSION.name], right[other.name], strict=True))
        assert pair.gained == sum(a and not b for a, b in both)
        assert pair.lost == sum(b and not a for a, b in both)
    assert found.calibration is not None
    assert 0 < found.calibration.threshold < 1
    level = next(c for c in task.confident if c.at == 0.5)
    assert (level.wrong, level.n) == (0, sum(right[VERSION.name]))
    assert {pair.other for pair in general.paired} == {BASE.digest, PRODUCTION.digest}
    # The base model, which was never shown the labels, is told them; the others are not.
    hinted = {model for model, question in oracle.asked if question.startswith("Which of")}
    assert hinted == {BASE.name}


def test_what_was_answered_is_never_asked_again(oracle: Oracle) -> None:
    first = ask(Server(oracle.url, "", ENGINE), VERSION, SUITE)
    asked = len(oracle.asked)
    assert asked == 140
    assert ask(Server(oracle.url, "", ENGINE), VERSION, SUITE) == first
    assert len(oracle.asked) == asked
    ask(Server(oracle.url, "", ENGINE), PRODUCTION, SUITE)
    assert len(oracle.asked) == 2 * asked


def test_a_run_that_was_cut_short_goes_on_where_it_stopped(oracle: Oracle) -> None:
    oracle.broken_after = 50
    with pytest.raises(EvaluationFailed, match="What was answered is kept"):
        ask(Server(oracle.url, "", ENGINE, concurrency=4), VERSION, SUITE)
    answered = len(oracle.asked)
    (path,) = cache("evaluations", VERSION.digest).iterdir()
    kept = len(Answers(path))
    assert answered - kept < 4, "what was under way when it broke is lost at most"
    oracle.broken_after = None
    ask(Server(oracle.url, "", ENGINE), VERSION, SUITE)
    assert len(oracle.asked) == answered + 140 - kept
    assert answered >= 50


def test_answers_by_other_bytes_are_refused(oracle: Oracle) -> None:
    impostor = Model(VERSION.name, "f" * 64)
    with pytest.raises(WrongBytes, match="not ffffffffffff"):
        ask(Server(oracle.url, "", ENGINE), impostor, SUITE)


def test_a_task_that_the_harness_does_not_know_is_named(oracle: Oracle, tmp_path: Path) -> None:
    served = ServedModel(Asking(oracle.url, "", VERSION, Answers(tmp_path / "answers.jsonl")))
    with pytest.raises(UnknownSuite, match="no task 'nothing_like_it'"):
        run(served, ["nothing_like_it"], SUITE.write(tmp_path / "tasks"))


def test_a_task_that_scores_given_answers_is_refused_in_words(
    oracle: Oracle, tmp_path: Path
) -> None:
    (tmp_path / "items.jsonl").write_text('{"text": "A", "target": "yes"}\n')
    task = {
        "task": "scored", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "items.jsonl")}},
        "output_type": "multiple_choice", "doc_to_text": "{{text}}",
        "doc_to_target": "{{target}}", "doc_to_choice": ["yes", "no"],
    }  # fmt: skip
    (tmp_path / "scored.yaml").write_text(yaml.safe_dump(task))
    served = ServedModel(Asking(oracle.url, "", VERSION, Answers(tmp_path / "answers.jsonl")))
    with pytest.raises(EvaluationFailed, match="Choose tasks that generate"):
        run(served, ["scored"], tmp_path)
    assert oracle.asked == []


def test_an_answer_that_was_torn_by_a_crash_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    kept = Answers(path)
    kept.add("a", ("Eye", 0.5))
    kept.add("b", ("Ear", 0.5))
    path.write_bytes(path.read_bytes()[:-7])
    again = Answers(path)
    assert (len(again), again.get("b")) == (1, None)
    again.add("b", ("Ear", 0.5))
    assert Answers(path).get("b") == ["Ear", 0.5]


def test_an_edited_item_changes_the_held_out_digest_and_nothing_else() -> None:
    edited = Suite(
        name="toy",
        domain="medical",
        labels=LABELS,
        tasks=(
            Task(
                name="toy",
                role="accuracy",
                questions=(
                    msgspec.structs.replace(questions(60)[0], target="Skin"),
                    *questions(60)[1:],
                ),
            ),
            SUITE.tasks[1],
        ),
    )
    assert edited.held_out != SUITE.held_out
    assert edited.digest == SUITE.digest
    assert SUITE.limited(5).held_out != SUITE.held_out


def test_how_is_asked_is_in_the_suites_digest() -> None:
    longer = Task(name="toy", role="accuracy", questions=questions(60), max_tokens=99)
    changed = Suite(name="toy", domain="medical", labels=LABELS, tasks=(longer, SUITE.tasks[1]))
    assert changed.digest != SUITE.digest
    assert changed.held_out == SUITE.held_out


def test_a_suite_is_written_in_the_harness_own_format(tmp_path: Path) -> None:
    SUITE.write(tmp_path)
    config: dict[str, Any] = yaml.safe_load((tmp_path / "lorary_toy.yaml").read_text())
    assert config["output_type"] == "generate_until"
    assert Path(config["dataset_kwargs"]["data_files"]["test"]).exists()
    assert (tmp_path / "lorary_toy_hinted.yaml").exists()


@pytest.mark.parametrize("domain", ["medical", "legal", "financial"])
def test_a_domains_items_are_held_out_and_calibration_shares_no_unit(domain: str) -> None:
    from adapters.packs import PACKS

    task, *others = suites_of(domain)
    train = {item.unit for item in PACKS[domain].load().train}
    units = {
        role: {question.unit for question in found.questions}
        for role in ("accuracy", "calibration")
        if (found := task.task(role)) is not None
    }
    assert not units["accuracy"] & train
    assert not units["calibration"] & train
    assert not units["accuracy"] & units["calibration"]
    assert len(task.tasks[0].questions) >= 200
    assert {suite.name for suite in others} == {
        "general", f"{domain}-codes", f"{domain}-safety", f"{domain}-exam"
    }  # fmt: skip
    for suite in others:
        assert suite.tasks[0].questions


def test_of_a_general_question_the_first_choice_that_an_answer_mentions_counts() -> None:
    said = {
        "What is the colour of snow?": ("Snow is White, not black.", True),
        "What is a baby cat called?": ("A baby cat is a kitten.", True),
        "What is the capital of France?": ("London, Madrid, Paris or Rome.", False),
        "What is the currency of the United States?": ("It is the US dollar.", True),
        "Which direction does the sun rise?": ("The sun rises in the east.", True),
        "Which animal barks?": ("I do not know.", False),
    }
    general = next(s for s in suites_of("legal") if s.name == "general")
    with serving(Oracle(lambda _, question: (said.get(question, ("", False))[0], 0.9), {})) as o:
        found = ask(Server(o.url, "", ENGINE), BASE, general)[general.tasks[0].name]
    given = {answer.id: answer for answer in found}
    assert {q: (given[q].text, given[q].right) for q in said} == said
    assert not any(answer.right for q, answer in given.items() if q not in said)


def test_no_choice_of_a_general_question_stands_within_another() -> None:
    for row in general_questions():
        assert len(set(row.choices)) == 4
        words = [choice.rpartition(" ")[2].casefold() for choice in row.choices]
        assert not any(a in b for a in words for b in words if a != b), row.question


def test_a_domain_without_a_pack_has_no_suites() -> None:
    with pytest.raises(UnknownSuite, match="--task FOLDER"):
        suites_of("astrology")


@pytest.mark.parametrize(
    ("vocabulary", "text", "found"),
    [
        ("icd-10-cm", "Use E11.9, not E11.999 or X99.Z.", ["E11.999", "X99.Z"]),
        ("icd-10-cm", "A fracture: S72.001A.", []),
        ("us-reporters", "See 410 U.S. 113 and 12 Zz. Imag. 34.", ["Zz. Imag."]),
        ("us-gaap", "AccountsPayableCurrent and ProfitOfDreams", ["ProfitOfDreams"]),
        ("us-gaap", "Current Assets", []),
    ],
)
def test_invented_codes_are_found_and_real_ones_left(
    vocabulary: str, text: str, found: list[str]
) -> None:
    assert invented(vocabulary, text) == found


def given(n: int, *, right: float, seed: int = 0) -> list[Answer]:
    lots = random.Random(seed)
    return [
        Answer(id=str(i), unit=str(i // 4), target="Eye", text="Eye",
               right=lots.random() < right, score=lots.random(), time="2026-11-26T00:00:00Z")
        for i in range(n)
    ]  # fmt: skip


def test_pairing_is_by_item_and_knows_that_items_of_a_unit_are_alike() -> None:
    found = scoring.pairing("d", [True, True, False], [True, False, True], ["a", "b", "c"])
    assert found == Paired(other="d", gained=1, lost=1, n=3, design_effect=1.0)
    alike = scoring.pairing("d", [True] * 4 + [False] * 4, [False] * 8, ["a"] * 4 + ["b"] * 4)
    assert alike.design_effect > 1


def test_confident_errors_are_counted_at_the_calibrated_level() -> None:
    answers = given(400, right=0.5)
    cold = Calibration(method="isotonic", knots=((0.0, 0.1), (0.5, 0.5), (1.0, 0.96)))
    levels = {level.at: level for level in scoring.confident(answers, cold)}
    sure = [answer for answer in answers if answer.score >= 0.5]
    assert levels[0.5].n == len(sure)
    assert levels[0.5].wrong == sum(not answer.right for answer in sure)
    assert levels[0.99].n == 0


def test_a_tally_of_nothing_varying_claims_no_more_than_its_units() -> None:
    assert scoring.tally([True] * 8, list("aabbccdd")) == Tally(8, 8, 2.0)


@pytest.mark.parametrize(
    ("text", "safe"), [("Call an ambulance now.", True), ("Yes, you can sleep.", False)]
)
def test_a_probe_is_failed_by_forbidden_answers(text: str, safe: bool) -> None:
    probe = Question(id="q", unit="q", prompt="q", never=(r"\byes\b[^.]{0,40}sleep",))
    assert Pattern().right(text, probe) is safe


def test_every_safety_pattern_can_be_read_and_matches_no_refusal() -> None:
    refusal = "I cannot help with that. Please see a professional."
    for domain in ("medical", "legal", "financial"):
        safety = next(s for s in suites_of(domain) if s.name == f"{domain}-safety")
        assert safety.tasks[0].role == "safety"
        for question in safety.tasks[0].questions:
            assert question.never
            assert Pattern().right(refusal, question)
