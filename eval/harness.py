"""Runs lm-evaluation-harness on a served model: its own tasks, and tasks in its YAML format.

Lorary's own suites are asked without the harness (`eval.asking`). They score the same with it, as
`tests/journeys/test_evaluation.py` checks.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from adapters.confidence import EVALUATED
from adapters.tasks.harness_yaml import harness_task
from eval.asking import Answer
from eval.errors import EvaluationFailed, UnknownSuite
from eval.served import Asking, Request
from eval.suites.suite import Task

_NO_LIKELIHOODS = (
    "Tasks that score how likely given answers are cannot be asked through the API: with adapters, "
    "vLLM cannot compute log-probabilities of a prompt safely. Choose tasks that generate an "
    "answer; many of the harness's have such a form, named generative."
)


class ServedModel(LM):  # type: ignore[misc]
    """The harness's interface to a model that is asked through the API."""

    def __init__(self, asking: Asking) -> None:
        """asking: asks the model, and keeps its answers."""
        super().__init__()
        self._asking = asking

    @property
    def tokenizer_name(self) -> str:
        """The model's name, by which the harness caches: the server has tokenizer and template."""
        return self._asking.model.name

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as JSON: the server applies its own template to them."""
        del add_generation_prompt
        return json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: list[Instance], **_: Any) -> list[str]:
        """The answers to the requests, in their order, by chat completions.

        The temperature is 0 unless a task sets another. Raises as `Asking.all`.
        """
        asked = [request_of(str(request.args[0]), request.args[1]) for request in requests]
        return [answer.text for answer in self._asking.all(asked)]

    def loglikelihood(self, requests: list[Instance], **_: Any) -> list[tuple[float, bool]]:
        """Not supported: raises `EvaluationFailed`."""
        del requests
        raise EvaluationFailed(_NO_LIKELIHOODS)

    def loglikelihood_rolling(self, requests: list[Instance], **_: Any) -> list[float]:
        """Not supported: raises `EvaluationFailed`."""
        del requests
        raise EvaluationFailed(_NO_LIKELIHOODS)


def request_of(context: str, settings: dict[str, Any]) -> Request:
    """The API's request for one of the harness's.

    context: messages as `ServedModel.apply_chat_template` writes them. settings: the task's
    `generation_kwargs`: `max_gen_toks`, and `until` and `temperature` if it sets them.
    """
    return Request(
        messages=tuple((each["role"], each["content"]) for each in json.loads(context)),
        max_tokens=settings["max_gen_toks"],
        stop=tuple(settings.get("until") or ()),
        temperature=settings.get("temperature", EVALUATED.temperature),
    )


def run(
    model: LM, tasks: Sequence[str], folder: Path | None, *, limit: int | None = None
) -> dict[str, Any]:
    """Run tasks of lm-evaluation-harness and return its result, with every sample.

    tasks: their names. folder: where their YAML files are; None for the harness's own tasks. limit:
    most items of each task; None for all.
    Raises `UnknownSuite` for a name that is not a task there, and what `model` raises.
    """
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=str(folder) if folder else None, include_defaults=folder is None
    )
    if unknown := [name for name in tasks if name not in manager.all_tasks]:
        raise UnknownSuite(
            f"lm-evaluation-harness has no task {unknown[0]!r} here. List them: lm_eval ls tasks"
        )
    result: dict[str, Any] = evaluator.evaluate(
        model,
        manager.load(list(tasks)),
        apply_chat_template=True,
        bootstrap_iters=0,
        limit=limit,
        log_samples=True,
    )
    return result


def ask_by_harness(asking: Asking, task: Task) -> list[Answer]:
    """Have the harness ask and score a task whose scoring is `harness`.

    asking: the model; answers that it kept are not asked for again. task: its questions' prompts
    are the rows of the harness's data set. Returns the answers in the order of the questions.
    Raises as `Asking.all`.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        rows = folder / "rows.jsonl"
        rows.write_text("".join(f"{question.prompt}\n" for question in task.questions))
        config = harness_task(task.harness, task.title(), str(rows))
        (folder / "task.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        found = run(ServedModel(asking), [task.title()], folder)
    samples = {int(sample["doc_id"]): sample for sample in found["samples"][task.title()]}
    answers = []
    for place, question in enumerate(task.questions):
        sample = samples[place]
        request = request_of(*sample["arguments"][0])
        given = asking.given(request)
        answers.append(
            Answer(
                id=question.id,
                unit=question.unit,
                target=str(sample["target"]),
                text=given.text.strip(),
                right=bool(sample["exact_match"]),
                score=given.score,
                time=given.time,
                read=str(sample["filtered_resps"][0]),
                prompt="\n\n".join(text for _, text in request.messages),
            )
        )
    return answers
