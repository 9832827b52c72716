"""An untrusted task of lm-evaluation-harness: which parts of its YAML may be used. Pure.

The harness runs what such a file says: functions (`!function`), other files, data sets with code of
their own, metrics from the Hub, Jinja templates that reach into Python, regular expressions that
never end. So only keys that generate an answer and compare it are taken, and templates and patterns
only in forms that are harmless. The rows are those of `items.jsonl`.
"""

import importlib
import re
import warnings
from collections.abc import Iterator, Mapping
from math import inf, log2
from typing import Annotated, Any, Literal

import msgspec
from jinja2 import Environment, TemplateSyntaxError, nodes
from msgspec import Meta

from adapters.tasks.strict_yaml import Problem, read_yaml

sre: Any = importlib.import_module("re._constants")
parser: Any = importlib.import_module("re._parser")

MAX_NODES = 500
MAX_GROWTH = 64
"""So many times as long as a row's text may `join` and `replace` make it, one within another."""
OPEN = 4096
"""Letters that an open repetition may take: as long as an answer gets, about."""
MAX_WAYS = 16 * OPEN
"""In so many ways a filter's pattern may be tried at one place of an answer."""
FILTERS = frozenset(
    ("capitalize", "default", "first", "int", "join", "last", "length", "lower", "replace",
     "string", "title", "trim", "upper")
)  # fmt: skip
_NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr,
    nodes.Getitem, nodes.Filter, nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.Not,
    nodes.And, nodes.Or, nodes.Concat, nodes.Add, nodes.Sub, nodes.List, nodes.Slice,
)  # fmt: skip

Template = Annotated[str, Meta(max_length=8000)]
Short = Annotated[str, Meta(max_length=300)]


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a filtered answer is compared with the target."""

    metric: Literal["exact_match"]
    aggregation: Literal["mean"] = "mean"
    higher_is_better: Literal[1] | bool = True
    ignore_case: bool = False
    ignore_punctuation: bool = False
    ignore_numbers: bool = False


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a filter."""

    function: Literal["take_first", "remove_whitespace", "lowercase", "uppercase", "regex"]
    regex_pattern: Short = ""
    group_select: Annotated[int, Meta(ge=-1, le=100)] = 0


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is done to an answer before it is compared."""

    filter: Annotated[tuple[Step, ...], Meta(max_length=8)]
    name: Short = "none"


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an answer is generated: at temperature 0, always."""

    until: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=32)], ...],
                     Meta(max_length=4)] = ()  # fmt: skip
    max_gen_toks: Annotated[int, Meta(ge=1, le=1024)] = 256
    temperature: Annotated[float, Meta(ge=0, le=0)] = 0
    do_sample: Literal[0] | bool = False


class HarnessTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys that are taken of a task's YAML."""

    doc_to_text: Template
    doc_to_target: Template
    task: Short = ""
    task_alias: Short = ""
    tag: Short | tuple[Short, ...] = ""
    output_type: Literal["generate_until"] = "generate_until"
    dataset_path: Literal["json"] = "json"
    test_split: Short = "test"
    description: Template = ""
    target_delimiter: Short = " "
    fewshot_delimiter: Short = "\n\n"
    num_fewshot: Literal[0] = 0
    generation_kwargs: Generation = Generation()
    filter_list: Annotated[tuple[Filter, ...], Meta(max_length=4)] = ()
    metric_list: Annotated[tuple[Metric, ...], Meta(min_length=1, max_length=1)] = (
        Metric("exact_match"),
    )
    metadata: Annotated[dict[Short, Any], Meta(max_length=20)] = {}


def harness_faults(file: str, text: str) -> list[Problem]:
    """Everything that keeps a harness task from being run."""
    task, problems, lines = read_yaml(file, text, HarnessTask)
    if task is None:
        return [_explained(problem) for problem in problems]
    for key in ("doc_to_text", "doc_to_target", "description"):
        for fault in _template_faults(getattr(task, key)):
            problems.append(Problem(file, lines.of((key,)), f"{key}: {fault}"))
    said: str | None
    for step in (step for each in task.filter_list for step in each.filter):
        if (step.function == "regex") != bool(step.regex_pattern):
            said = "A step of a filter has a regex_pattern if, and only if, its function is regex."
            problems.append(Problem(file, lines.of(("filter_list",)), said))
        elif said := _pattern_fault(step.regex_pattern):
            problems.append(Problem(file, lines.of(("filter_list",)), said))
    if len(task.filter_list) > 1:
        said = "It has several filters, which would score each answer several times. Keep one."
        problems.append(Problem(file, lines.of(("filter_list",)), said))
    return problems


def harness_task(text: str, name: str, rows: str) -> dict[str, Any]:
    """The task as the harness takes it, under another name, its rows in the file `rows`.

    Raises `ValueError` for what `harness_faults` finds: nothing else is ever run.
    """
    if faults := harness_faults("harness.yaml", text):
        raise ValueError(str(faults[0]))
    task, _, _ = read_yaml("harness.yaml", text, HarnessTask)
    fields: dict[str, Any] = msgspec.to_builtins(task)
    for key in ("task_alias", "tag", "metadata"):
        fields.pop(key)
    generation = fields["generation_kwargs"]
    fields["filter_list"] = [
        {**each, "filter": [_step(step) for step in each["filter"]]}
        for each in fields["filter_list"]
    ] or [{"name": "none", "filter": [{"function": "take_first"}]}]
    if not generation["until"]:
        generation["until"] = [fields["fewshot_delimiter"]]
    return {
        **fields,
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": rows}},
        "test_split": "test",
    }


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    return dict(step) if step["function"] == "regex" else {"function": step["function"]}


def _explained(problem: Problem) -> Problem:
    """The same, with why a key of the harness is not taken."""
    if "dataset_kwargs" in problem.problem or "_split" in problem.problem:
        more = " The rows are those of items.jsonl, all of them for judging."
    elif "output_type" in problem.problem:
        more = (
            " How likely given answers are cannot be asked for with adapters. Choose a form of the "
            "task that generates an answer."
        )
    else:
        more = ""
    return Problem(problem.file, problem.line, problem.problem + more)


def _template_faults(template: str) -> Iterator[str]:
    # Nothing is rendered here: the template is parsed, and its tree is looked at.
    try:
        tree = Environment(autoescape=True).parse(template)
    except (TemplateSyntaxError, RecursionError) as error:
        yield f"It is no template: {str(error)[:200]}."
        return
    for count, node in enumerate(_walk(tree), 1):
        if count > MAX_NODES:
            yield f"It has more than {MAX_NODES} parts. Shorten it."
            return
        if said := _node_fault(node):
            yield said
    if _growth(tree) > MAX_GROWTH:
        yield "join and replace make the text too long. Prepare the text in items.jsonl."


def _node_fault(node: nodes.Node) -> str | None:
    if not isinstance(node, _NODES):
        return f"Templates may not use {type(node).__name__}. Prepare the text in items.jsonl."
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        return f"Templates may not use the filter {node.name!r}."
    if isinstance(node, nodes.Filter) and not _plain_arguments(node):
        return (
            f"The filter {node.name!r} takes values that are written out alone, and join one at "
            "most: the text between."
        )
    if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
        return f"Templates may not reach for {node.attr!r}."
    if isinstance(node, nodes.Getitem):
        key = node.arg
        plain = isinstance(key, nodes.Slice) or (
            isinstance(key, nodes.Const) and not str(key.value).startswith("_")
        )
        if not plain:
            return "Templates may only look up names and numbers that are written out."
    return None


def _plain_arguments(node: nodes.Filter) -> bool:
    """Whether a filter's arguments cannot look attributes up, as the second argument of join does,
    nor multiply one text of a row by another."""
    if node.kwargs or node.dyn_args or node.dyn_kwargs:
        return False
    if node.name not in ("join", "replace"):
        return True
    at_most = 1 if node.name == "join" else 3
    return len(node.args) <= at_most and all(isinstance(arg, nodes.Const) for arg in node.args)


def _growth(node: nodes.Node) -> int:
    """How many times as long as what stands in it a node's text may be, through filters."""
    own = 1
    if isinstance(node, nodes.Filter) and node.name in ("join", "replace"):
        own += max((len(str(arg.value)) for arg in node.args if isinstance(arg, nodes.Const)),
                   default=0)  # fmt: skip
    return own * max(map(_growth, node.iter_child_nodes()), default=1)


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _pattern_fault(pattern: str) -> str | None:
    """Why a pattern may not be given to Python's engine."""
    if not pattern:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            ways = _ways(list(parser.parse(pattern)))
    except (re.error, OverflowError, RecursionError) as error:
        return f"regex_pattern: it is no regular expression: {error}."
    if ways > MAX_WAYS:
        return (
            "regex_pattern: several repetitions, one after or within another, may take forever. "
            "Write one, such as `#### ([0-9]+)`, or score by kind pattern or numeric."
        )
    return None


def _ways(items: list[tuple[Any, Any]]) -> float:
    """In how many ways a pattern can be tried at one place of an answer, at most."""
    found = 1.0
    for kind, value in items:
        if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            least, most, body = value
            most = min(most, OPEN)
            least = min(least, most)
            inner = _ways(list(body))
            found *= most - least + 1 if inner == 1 else _power(inner, most)
        elif kind is sre.SUBPATTERN:
            found *= _ways(list(value[3]))
        elif kind is sre.BRANCH:
            found *= sum(_ways(list(branch)) for branch in value[1])
        elif kind in (sre.ASSERT, sre.ASSERT_NOT, sre.ATOMIC_GROUP, sre.GROUPREF_EXISTS,
                      sre.GROUPREF):  # fmt: skip
            found = inf
    return found


def _power(base: float, exponent: int) -> float:
    return inf if exponent * log2(base) > 64 else (exponent + 1) * base**exponent
