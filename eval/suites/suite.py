"""What a suite is: a few lists of questions, how each is scored, and two digests.

One digest covers how is asked and scored, the other the items: a policy names both, so neither can
be edited unnoticed. `Suite.write` puts tasks into a folder that `lm_eval --include_path` reads, in
lm-evaluation-harness's own format, so that anybody can ask the same questions without Lorary.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml
from msgspec.structs import replace

from adapters.confidence import EVALUATED, Decoding
from adapters.tasks.criteria import Criterion
from adapters.tasks.scoring import LETTERS, AnyScoring, Choice, Exact, Label
from eval.errors import NotExported

SCORING = 2
"""Raised when answers are scored in another way: earlier reports then count no longer."""

Role = Literal[
    "accuracy",  # counted, paired with other models, checked for confident errors
    "calibration",  # fits confidence; counted nowhere
    "rephrased",  # the same items in other words: is the answer the same?
    "ordered",  # the same items with the answers listed ...
    "reordered",  # ... and listed in another order
    "validity",  # are there invented codes in a free answer?
    "unanswerable",  # is an answer withheld where none is right?
    "safety",  # does a free answer keep clear of forbidden answers?
    "rubric",  # counted only where somebody has judged the answers
]
COMPARED: frozenset[Role] = frozenset(("accuracy", "rubric"))
"""Asked of the models that a version is compared with, too."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One item as it is asked. A row of the task's JSONL file."""

    id: str
    """Names the item in every task of a suite that asks it."""
    unit: str
    """Items of one unit are alike; intervals account for that."""
    prompt: str
    target: str = ""
    hinted: str = ""
    """The prompt for a model that was never shown the permitted answers; "" for the same."""
    choices: tuple[str, ...] = ()
    """Answers to choose from, in the order in which the prompt lists them."""
    accepted: tuple[str, ...] = ()
    """Other right answers."""
    match: tuple[str, ...] = ()
    """Patterns of which an answer must match one."""
    never: tuple[str, ...] = ()
    """Patterns that an answer must not match."""
    criteria: tuple[Criterion, ...] = ()


_EXACT = Exact()
_FIRST = {"function": "take_first"}
_ALONE = {"function": "remove_whitespace"}
_MENTIONED = {
    "function": "multi_choice_regex",
    "regex_pattern": "(?!)",  # matches nothing, so that choices are looked for, not letters
    "ignore_case": True,
    "regexes_to_ignore": [r"(?i)\b(a|the|in the) "],
}
_LETTER = f"({{{{'{LETTERS}'[choices.index(target)]}}}})"
"""As that filter names the choices."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One list of questions: how they are scored, and how much may be answered."""

    name: str
    role: Role
    questions: tuple[Question, ...]
    max_tokens: int = EVALUATED.max_tokens
    stop: tuple[str, ...] = EVALUATED.stop
    scoring: AnyScoring = _EXACT
    harness: str = ""
    """The YAML by which lm-evaluation-harness asks and scores; "" where Lorary does. The questions'
    prompts are then the rows, as JSON."""

    @property
    def decoding(self) -> Decoding:
        """How its questions are asked: what a calibration fitted on it holds for."""
        return replace(EVALUATED, max_tokens=self.max_tokens, stop=self.stop)

    @property
    def needs_hint(self) -> bool:
        """Whether a model that was not trained on the task is asked in another way."""
        return any(question.hinted for question in self.questions)

    @property
    def has_choices(self) -> bool:
        """Whether an answer is searched for the first choice it mentions."""
        return isinstance(self.scoring, Choice)

    @property
    def described(self) -> list[Any]:
        """How is asked and scored: a part of the suite's digest."""
        how = msgspec.to_builtins(self.decoding)
        return [self.role, how, msgspec.to_builtins(self.scoring), self.needs_hint, self.harness]

    def config(self, *, hinted: bool = False) -> dict[str, Any]:
        """The task in lm-evaluation-harness's own terms, without where its items lie.

        Raises `NotExported` for a scoring that the harness does not have.
        """
        if not (
            (
                type(self.scoring) in (Exact, Label)
                and not any(question.accepted for question in self.questions)
            )
            or (isinstance(self.scoring, Choice) and self.scoring.answer == "mention")
        ) or self.role in ("safety", "validity", "rubric"):
            raise NotExported(
                f"{self.name} is scored in a way that lm-evaluation-harness does not have "
                f"({self.scoring.kind}). Ask it with: lorary eval"
            )
        return {
            "task": self.title(hinted=hinted),
            "dataset_path": "json",
            "test_split": "test",
            "doc_to_text": "{{hinted}}" if hinted else "{{prompt}}",
            "metadata": {"version": SCORING},
            "output_type": "generate_until",
            "doc_to_target": _LETTER if self.has_choices else "{{target}}",
            "generation_kwargs": {
                "until": list(self.stop),
                "max_gen_toks": self.max_tokens,
                "temperature": int(EVALUATED.temperature),  # in the digest of every suite
                "do_sample": False,
            },
            "filter_list": [
                {
                    "name": "answer",
                    "filter": [_MENTIONED if self.has_choices else _ALONE, _FIRST],
                }
            ],
            "metric_list": [
                {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            ],
        }

    def title(self, *, hinted: bool = False) -> str:
        """The task's name for lm-evaluation-harness."""
        return f"lorary_{self.name}{'_hinted' if hinted else ''}".replace("-", "_")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks that are asked, scored and required together."""

    name: str
    domain: str
    tasks: tuple[Task, ...]
    labels: tuple[str, ...] = ()
    """The permitted answers of the accuracy task, if they are a closed set."""
    unknown: str = ""
    """The answer that means "not enough information"."""
    about: str = field(default="", compare=False)
    pushed: str = field(default="", compare=False)
    """The version of the domain's task that it was made of, such as `findings@2`; "" if of none."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of how is asked and scored."""
        tasks = [task.described for task in self.tasks]
        return _sha256([SCORING, self.name, self.labels, self.unknown, tasks])

    @cached_property
    def held_out(self) -> str:
        """SHA-256 of every item, those that fit the calibration included."""
        return _sha256([[task.name, msgspec.to_builtins(task.questions)] for task in self.tasks])

    def task(self, role: Role) -> Task | None:
        """The suite's task with that role."""
        return next((task for task in self.tasks if task.role == role), None)

    def limited(self, n: int) -> "Suite":
        """The suite with at most n items a task: for a quick look, never for a gate.

        Its items have another digest, so it is no pushed version's.
        """
        cut = tuple(dataclasses.replace(task, questions=task.questions[:n]) for task in self.tasks)
        return dataclasses.replace(self, tasks=cut, pushed="")

    def write(self, folder: Path, at: Path | None = None) -> Path:
        """Every task's YAML and items in `folder`, for `lm_eval --include_path`.

        Tasks that the harness cannot score are left out; raises `NotExported` if none is left.
        at: where the folder will be, if it is moved afterwards.
        """
        refused = None
        written = 0
        for task in self.tasks:
            try:
                configs = [task.config(hinted=h) for h in (False, True)[: 1 + task.needs_hint]]
            except NotExported as error:
                refused = error
                continue
            written += 1
            folder.mkdir(parents=True, exist_ok=True)
            items = folder / f"{task.title()}.jsonl"
            items.write_bytes(b"".join(msgspec.json.encode(q) + b"\n" for q in task.questions))
            data = {"data_files": {"test": str((at or folder).resolve() / items.name)}}
            for config in configs:
                config["dataset_kwargs"] = data
                text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
                (folder / f"{config['task']}.yaml").write_text(text)
        if refused is not None and not written:
            raise refused
        return folder


def _sha256(value: Sequence[Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
