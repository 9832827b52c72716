"""lm-evaluation-harness: its own tasks asked through the served API, and tasks by its YAML.

Suites of Lorary's own are asked without it (eval.asking), and score as it does
(`tests/journeys/test_evaluation.py`).
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
    """A model behind the API, as the harness sees models."""

    def __init__(self, asking: Asking) -> None:
        super().__init__()
        self._asking = asking

    @property
    def tokenizer_name(self) -> str:
        """The server applies its own template; the model's name stands for it."""
        return self._asking.model.name

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as they are: the server turns them into a prompt."""
        del add_generation_prompt
        return json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: list[Instance], **_: Any) -> list[str]:
        """Answers by chat completions, at temperature 0 unless the task says another."""
        asked = [request_of(str(request.args[0]), request.args[1]) for request in requests]
        return [answer.text for answer in self._asking.all(asked)]

    def loglikelihood(self, requests: list[Instance], **_: Any) -> list[tuple[float, bool]]:
        """Not to be had: servers do not tell log-probabilities of a prompt for an adapter."""
        del requests
        raise EvaluationFailed(_NO_LIKELIHOODS)

    def loglikelihood_rolling(self, requests: list[Instance], **_: Any) -> list[float]:
        """Nor these."""
        del requests
        raise EvaluationFailed(_NO_LIKELIHOODS)


def request_of(context: str, how: dict[str, Any]) -> Request:
    """What the harness asks, as it is put to the API."""
    return Request(
        messages=tuple((each["role"], each["content"]) for each in json.loads(context)),
        max_tokens=how["max_gen_toks"],
        stop=tuple(how.get("until") or ()),
        temperature=how.get("temperature", EVALUATED.temperature),
    )


def run(
    served: Any, tasks: Sequence[str], folder: Path | None, *, limit: int | None = None
) -> dict[str, Any]:
    """lm-evaluation-harness's own result for tasks by name: those in `folder`, or its stock ones.

    Raises `UnknownSuite` for a name that is no task.
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
        served,
        manager.load(list(tasks)),
        apply_chat_template=True,
        bootstrap_iters=0,
        limit=limit,
        log_samples=True,
    )
    return result


def ask_by_harness(asking: Asking, task: Task) -> list[Answer]:
    """The answers to a task that the harness asks and scores, in the order of its rows."""
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
