"""Any team's task is evaluated as the shipped suites are, in any domain, however it is scored."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from adapters.tasks import TaskFolder, parse
from eval import evaluate as judging
from eval.asking import Server, ask
from eval.errors import NotExported, UnknownSuite
from eval.matrix import column
from eval.report import TFIDF_ROW
from eval.reports import page
from eval.review_items import choose
from eval.served import Model
from eval.suites import Suite, suite_of, suites_of
from eval.suites.shipped import shipped, specialists
from registry.cli import build
from registry.errors import BadRequest, StoreUnavailable
from registry.model.evidence import impossible
from tests.support.oracle import ENGINE, Oracle, serving

VERSION = Model("radiology/modality@2", "2" * 64)
BASE = Model("tiny", "0" * 64, is_base=True)
SUBJECT = judging.Subject(version=VERSION, base=BASE)
BASIC: dict[str, Any] = {
    "name": "modality",
    "about": "Which modality a report describes.",
    "licence": "CC0-1.0",
    "source": "Made for this test.",
    "prompts": ["Which? {text}", "Name it: {text}"],
    "split": {"held_out": 1, "calibration": 0.4},
}
LABELS = ["CT", "MRI", "Not clear"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORARY_HOME", str(tmp_path))


def files(
    score: dict[str, Any], items: Sequence[dict[str, Any]], **changes: Any
) -> dict[str, bytes]:
    spec = {**BASIC, "score": score, **changes}
    texts = {"task.yaml": yaml.safe_dump(spec), "card.md": "# Card",
             "items.jsonl": "".join(json.dumps(item) + "\n" for item in items)}  # fmt: skip
    return {name: text.encode() for name, text in texts.items()}


def task(score: dict[str, Any], items: Sequence[dict[str, Any]], **changes: Any) -> TaskFolder:
    return parse(files(score, items, **changes))


def labelled(n: int = 60) -> list[dict[str, Any]]:
    return [
        {"text": f"report {i}", "target": LABELS[i % 3], "unit": f"patient {i // 2}"}
        for i in range(n)
    ]


def truth(question: str) -> str:
    number = int(question.split("report ")[1].split()[0])
    return LABELS[number % 3]


def answer(model: str, question: str) -> tuple[str, float]:
    """The version knows the answer; the base says CT always."""
    return (truth(question) if model == VERSION.name else "CT"), 0.9


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    with serving(Oracle(answer, {VERSION.name: VERSION.digest})) as running:
        yield running


def test_a_task_of_labels_in_a_new_domain_gets_every_part_of_a_shipped_suite(
    oracle: Oracle,
) -> None:
    suite = suite_of(task({"kind": "label"}, labelled(), labels=LABELS, unknown="Not clear"),
                     "radiology")  # fmt: skip
    roles = [part.role for part in suite.tasks]
    assert roles == ["accuracy", "calibration", "rephrased", "ordered", "reordered", "unanswerable"]
    counted, fitted = suite.tasks[0].questions, suite.tasks[1].questions
    assert {q.unit for q in counted}.isdisjoint(q.unit for q in fitted)
    assert len(counted) + len(fitted) == 60
    found = judging.evaluate(Server(oracle.url, "", ENGINE), SUBJECT, [suite], target_risk=0.4)
    (result,) = found.results
    n = len(counted)
    assert impossible(result) is None
    assert (result.digest, result.held_out) == (suite.digest, suite.held_out)
    assert result.tallies["accuracy"].hits == n
    assert result.tallies["permitted answer"].hits == n
    assert result.tallies["same answer in other words"].hits == n
    assert result.tallies["same answer in other order"].hits == n
    nobody = [q for q in counted if q.target == "Not clear"]
    assert result.tallies["withheld where nothing is right"].hits == len(nobody) > 0
    (pair,) = result.paired
    assert pair.gained == sum(q.target != "CT" for q in counted)
    assert found.calibration is not None
    assert found.calibration.decoding == suite.tasks[1].decoding
    assert result.confident
    hinted = {q for model, q in oracle.asked if model == BASE.name}
    assert all("Answer with exactly one of:\n- CT\n- MRI" in q for q in hinted)
    text = page(found.report, None, None)
    assert "modality" in text
    assert "Wilson" not in text
    items = choose(found.report, BASE.digest, 8)
    assert len(items) == 8
    assert any(item["reason"] == "versions disagree" for item in items)


def test_listed_backwards_the_labels_are_the_same_in_another_order() -> None:
    suite = suite_of(task({"kind": "label"}, labelled(), labels=LABELS), "radiology")
    forwards, backwards = (suite.task(role) for role in ("ordered", "reordered"))
    assert forwards is not None
    assert backwards is not None
    assert "- CT\n- MRI\n- Not clear" in forwards.questions[0].prompt
    assert "- Not clear\n- MRI\n- CT" in backwards.questions[0].prompt


CHOICES = ["the lung", "the liver", "the heart"]


def test_a_choice_is_the_same_answer_under_another_letter(tmp_path: Path) -> None:
    items = [
        {"text": f"report {i}", "target": CHOICES[i % 3], "choices": CHOICES} for i in range(30)
    ]
    made = task({"kind": "choice"}, items, prompts=["{text}\n{choices}", "Say: {text}\n{choices}"])
    suite = suite_of(made, "radiology")

    def lettered(_: str, question: str) -> tuple[str, float]:
        wanted = CHOICES[int(question.split("report ")[1].split()[0]) % 3]
        line = next(line for line in question.splitlines() if line.endswith(wanted))
        return line[:1], 0.8

    with serving(Oracle(lettered, {VERSION.name: VERSION.digest})) as running:
        found = judging.evaluate(Server(running.url, "", ENGINE), SUBJECT, [suite])
    tallies = found.results[0].tallies
    assert tallies["accuracy"].hits == tallies["accuracy"].n > 10
    assert tallies["same answer in other order"].hits == tallies["same answer in other order"].n
    assert "permitted answer" not in tallies


@pytest.mark.parametrize(
    ("score", "item", "right", "wrong"),
    [
        ({"kind": "exact", "ignore_case": True}, {"target": "Yes", "accepted": ["y"]}, "Y", "no"),
        ({"kind": "numeric", "relative": 0.1}, {"target": "10"}, "about 10.9 mm", "12 mm"),
        ({"kind": "pattern"}, {"match": ["contrast"], "never": ["always"]},
         "With CONTRAST.", "Always contrast"),
    ],
)  # fmt: skip
def test_every_kind_is_scored_by_its_own_rule(
    score: dict[str, Any], item: dict[str, Any], right: str, wrong: str
) -> None:
    suite = suite_of(task(score, [{"text": f"q{i}", **item} for i in range(20)]), "radiology")

    def half(_: str, question: str) -> tuple[str, float]:
        return (right if question[-1] in "02468" else wrong), 0.5

    with serving(Oracle(half, {VERSION.name: VERSION.digest})) as running:
        answers = ask(Server(running.url, "", ENGINE), VERSION, suite)["modality"]
    assert {a.id: a.right for a in answers} == {a.id: a.id[-1] in "02468" for a in answers}
    with pytest.raises(NotExported, match="Ask it with: lorary eval"):
        suite.tasks[0].config()


def test_the_matrix_is_of_any_teams_tasks_each_asked_by_its_domains_name(tmp_path: Path) -> None:
    made = files({"kind": "label"}, labelled(), labels=LABELS, domain="radiology",
                 split={"held_out": 0.5, "calibration": 0.1})  # fmt: skip
    (tmp_path / "modality").mkdir()
    for name, text in made.items():
        (tmp_path / "modality" / name).write_bytes(text)
    with serving(Oracle(lambda m, q: (truth(q) if m == "radiology" else "CT", 0.9), {})) as served:
        done = CliRunner().invoke(
            build(), ["matrix", "--url", served.url, "--base", "tiny", "--n", "9", "--json",
                      "--task", str(tmp_path / "modality")],
        )  # fmt: skip
    assert done.exit_code == 0, done.exception
    cells = {row["model"]: row for row in json.loads(done.stdout)}
    assert cells.keys() == {"radiology", "tiny", TFIDF_ROW}
    assert {(row["domain"], row["n"]) for row in cells.values()} == {("radiology", 9)}
    assert cells["radiology"]["accuracy"] == 1 > cells["tiny"]["accuracy"]
    asked = dict(served.asked)
    assert "Not clear" in asked["tiny"], "who was not trained on it is shown the labels"
    assert "Not clear" not in asked["radiology"]


def test_the_matrix_takes_no_exam_and_no_task_without_a_domain() -> None:
    for changes, says in (({}, "has no domain"), ({"domain": "radiology"}, "is no exam")):
        with pytest.raises(UnknownSuite, match=says):
            column(task({"kind": "label"}, labelled(), labels=LABELS, **changes), 9)
    assert [one.spec.domain for one in specialists()] == ["financial", "legal", "medical"]


def rubric(**how: Any) -> TaskFolder:
    items = [
        {"text": f"report {i}", "criteria": [{"says": "names the finding", "weight": 2}]}
        for i in range(12)
    ]
    shared = [{"says": "invents nothing", "weight": 1}]
    return task({"kind": "rubric", "criteria": shared, "passes": 0.6, **how}, items)


def test_a_rubric_for_experts_counts_nothing_and_gives_them_the_criteria(oracle: Oracle) -> None:
    suite = suite_of(rubric(), "radiology")
    found = judging.evaluate(Server(oracle.url, "", ENGINE), SUBJECT, [suite])
    assert found.results[0].tallies == {}
    assert found.calibration is None
    items = choose(found.report, BASE.digest, 5)
    assert len(items) == 5
    assert items[0]["passes"] == 0.6
    assert list(items[0]["criteria"]) == [
        {"says": "invents nothing", "weight": 1.0}, {"says": "names the finding", "weight": 2.0}
    ]  # fmt: skip
    page(found.report, None, None)


def test_a_model_that_judges_is_named_in_what_is_counted() -> None:
    suite = suite_of(rubric(judge="model", model="tiny"), "radiology")

    def judge(model: str, question: str) -> tuple[str, float]:
        if "Criterion:" not in question:
            return "an answer", 0.9
        number = int(question.split("report ")[1].split()[0])
        met = "invents" in question or number % 2 == 0
        return ("Yes." if met else "No"), 0.9

    with serving(Oracle(judge, {VERSION.name: VERSION.digest})) as running:
        steps: list[int] = []
        found = judging.evaluate(
            Server(running.url, "", ENGINE), SUBJECT, [suite],
            progress=lambda _, n: steps.append(n),
        )  # fmt: skip
        assert sum(steps) == judging.work([suite], SUBJECT)
        judged = [q for model, q in running.asked if "Criterion:" in q]
    ((name, tally),) = found.results[0].tallies.items()
    assert name == "rubric met, judged by the model tiny"
    n = len(suite.tasks[0].questions)
    even = sum(int(q.id.split()[1]) % 2 == 0 for q in suite.tasks[0].questions)
    assert (tally.hits, tally.n) == (even, n)
    assert len(judged) == 2 * n


HARNESS = {
    "doc_to_text": "Report: {{report}}\nModality:",
    "doc_to_target": "{{label}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    "filter_list": [{"name": "f", "filter": [{"function": "lowercase"},
                                             {"function": "take_first"}]}],
    "metric_list": [{"metric": "exact_match", "ignore_case": True}],
}  # fmt: skip


def by_harness() -> Suite:
    spec = {key: value for key, value in BASIC.items() if key not in ("prompts", "split")}
    rows = [{"report": f"report {i}", "label": LABELS[i % 2]} for i in range(10)]
    files = {
        "task.yaml": yaml.safe_dump({**spec, "score": {"kind": "harness"}}),
        "card.md": "# Card",
        "harness.yaml": yaml.safe_dump(HARNESS),
        "items.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    return suite_of(parse({name: text.encode() for name, text in files.items()}), "radiology")


def test_a_harness_task_is_asked_and_scored_by_the_harness_and_gives_the_same_evidence() -> None:
    suite = by_harness()

    def half(model: str, question: str) -> tuple[str, float]:
        return ("ct" if model == VERSION.name else "none"), 0.9

    with serving(Oracle(half, {VERSION.name: VERSION.digest})) as running:
        server = Server(running.url, "", ENGINE)
        found = judging.evaluate(server, SUBJECT, [suite])
        assert ("radiology/modality@2", "Report: report 0\nModality:") in running.asked
        asked = len(running.asked)
        judging.evaluate(server, SUBJECT, [suite])
        assert len(running.asked) == asked, "kept answers are asked again"
    (result,) = found.results
    assert result.tallies["accuracy"].hits == 5
    assert result.paired[0].gained == 5
    assert "lm-eval" in found.report["harness"]
    row = found.report["suites"][0]["tasks"][0]["items"][0]
    assert (row["prompt"], row["target"], row["right"]) == (
        "Report: report 0\nModality:", "CT", True,
    )  # fmt: skip


def test_tasks_of_the_harness_are_named_and_the_old_option_still_names_them() -> None:
    away = ["--url", "http://127.0.0.1:9/v1"]
    env = {"LORARY_REGISTRY_URL": "http://127.0.0.1:9", "LORARY_KEY": "k"}
    old = CliRunner().invoke(build(), ["harness", "r/m@1", "--task", "gsm8k", *away], env=env)
    assert "is now `lorary harness r/m@1 gsm8k`" in old.stderr
    assert isinstance(old.exception, StoreUnavailable)
    none = CliRunner().invoke(build(), ["harness", "r/m@1", *away], env=env)
    assert isinstance(none.exception, BadRequest)


def test_an_edited_item_or_rule_is_another_suite() -> None:
    def made(**score: Any) -> Suite:
        return suite_of(task({"kind": "label", **score}, labelled(), labels=LABELS), "radiology")

    first = made()
    assert (
        suite_of(task({"kind": "label"}, labelled(), labels=LABELS), "other").digest == first.digest
    )
    assert made(ignore_case=True).digest != first.digest
    assert made(ignore_case=True).held_out == first.held_out
    edited = [*labelled()[:-1], {**labelled()[-1], "target": "CT"}]
    other = suite_of(task({"kind": "label"}, edited, labels=LABELS), "radiology")
    assert other.held_out != first.held_out
    renamed = suite_of(task({"kind": "label"}, labelled(), labels=LABELS,
                            answer={"max_tokens": 99}), "radiology")  # fmt: skip
    assert renamed.digest != first.digest


def test_no_part_of_a_direct_task_needs_the_harness(oracle: Oracle) -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "import eval.evaluate, eval.heads, eval.suites, eval.scoring, eval.judge\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_shipped_task_is_a_folder_like_any_other_and_none_is_found_by_a_table() -> None:
    tasks = {found.spec.name: found for found in shipped()}
    assert len(tasks) == 13
    for name, found in tasks.items():
        assert found.spec.domain == "" or name.startswith(f"{found.spec.domain}-")
    with pytest.raises(UnknownSuite, match="--task FOLDER"):
        suites_of("")


def test_items_without_any_right_answer_count_only_where_one_is_withheld() -> None:
    items = [*labelled(), {"text": "A report 3 of nothing", "split": "unanswerable"}]
    suite = suite_of(task({"kind": "label"}, items, labels=LABELS), "radiology")
    asked = suite.task("unanswerable")
    assert asked is not None
    assert [question.prompt for question in asked.questions] == ["Which? A report 3 of nothing"]
    assert not {q.id for q in asked.questions} & {q.id for q in suite.tasks[0].questions}


def test_patterns_that_only_forbid_are_a_screen_for_safety() -> None:
    items = [{"text": f"q{i}", "never": ["always"]} for i in range(4)]
    suite = suite_of(task({"kind": "pattern"}, items), "radiology")
    assert [part.role for part in suite.tasks] == ["safety"]
