"""Of a stranger's lm-evaluation-harness task nothing is run but what generates and compares."""

from typing import Any

import pytest
import yaml

from adapters.tasks.harness_yaml import harness_faults, harness_task

SOUND: dict[str, Any] = {
    "task": "modality",
    "output_type": "generate_until",
    "doc_to_text": "Report: {{report}}\nModality ({{ choices | join(', ') }}):",
    "doc_to_target": "{{choices[label]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
    "filter_list": [
        {"name": "first", "filter": [{"function": "regex", "regex_pattern": "([A-Z]{2,3})"},
                                     {"function": "take_first"}]}
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "ignore_case": True}],
    "metadata": {"version": 1.0},
}  # fmt: skip


def faults(changes: dict[str, Any]) -> list[str]:
    fields = {key: value for key, value in {**SOUND, **changes}.items() if value is not None}
    fields["doc_to_target"] = changes.get("doc_to_target", "{{label}}")
    return [str(fault) for fault in harness_faults("harness.yaml", yaml.safe_dump(fields))]


def test_a_plain_task_is_taken_with_rows_of_our_own() -> None:
    text = yaml.safe_dump({**SOUND, "doc_to_target": "{{label}}"})
    assert harness_faults("harness.yaml", text) == []
    made = harness_task(text, "lorary_x", "/tmp/rows.jsonl")
    assert made["task"] == "lorary_x"
    assert made["dataset_kwargs"] == {"data_files": {"test": "/tmp/rows.jsonl"}}
    assert made["generation_kwargs"]["until"] == ("\n",) or ["\n"]
    assert "metadata" not in made


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}", "{{ x['__class__'] }}", "{{ x['__cl' ~ 'ass__'] }}",
        "{{ x|attr('__class__') }}", "{{ lipsum.__globals__ }}", "{{ x.format(1) }}",
        "{% for i in range(10**9) %}a{% endfor %}", "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}", "{{ 'a' * 10**9 }}", "{% set x = 1 %}",
        "{% macro f() %}{% endmacro %}",
        "{{ x|map(attribute='__class__')|list }}", "{{", "{{ x[y] }}", "{{ x if x is defined }}",
        "{{ [lipsum]|join('', '__globals__.os.environ') }}",
        "{{ [lipsum]|join(*['', '__globals__.os.environ']) }}", "{{ [lipsum]|join(**x) }}",
    ],
)  # fmt: skip
def test_templates_that_reach_into_python_or_loop_are_refused(template: str) -> None:
    assert faults({"doc_to_text": template})


@pytest.mark.parametrize(
    "template",
    [
        "{{ x|join(x) }}", "{{ x|replace('a', x) }}",
        f"{{{{ x|replace('a', '{'a' * 3000}')|join('b') }}}}",
        "{{ x" + "|join('bb')" * 4 + " }}", "{{ (x|join('b' * 9))|join('b') }}",
    ],
)  # fmt: skip
def test_templates_that_multiply_a_rows_text_are_refused(template: str) -> None:
    assert faults({"doc_to_text": template})
    assert not faults({"doc_to_text": "{{ x|join(', ') }} {{ y|replace('a', 'b')|join('; ') }}"})


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+bx{4097,}", "x{5000,}(a|aa)*b", "(a+)+b", "a*a*b", r"(\d+)-(\d+)", "(a|a)*b",
        "(?=a+)b", r"(a)\1", r"\d{0,16}" * 5, "(", "(a?){30}b",
    ],
)  # fmt: skip
def test_patterns_that_may_take_for_ever_are_refused(pattern: str) -> None:
    steps = [{"function": "regex", "regex_pattern": pattern}]
    assert faults({"filter_list": [{"name": "x", "filter": steps}]})


@pytest.mark.parametrize(
    "pattern", [r"#### (\-?[0-9\.\,]+)", "([ABCD])", r"answer is \(?([A-D])\)?", r"[0-9]{1,3}"]
)
def test_patterns_of_one_repetition_are_taken(pattern: str) -> None:
    steps = [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]
    assert faults({"filter_list": [{"name": "x", "filter": steps}]}) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"process_docs": "utils.f"}, "no key 'process_docs'"),
        ({"include": "../other.yaml"}, "no key 'include'"),
        ({"custom_dataset": "x"}, "no key 'custom_dataset'"),
        ({"unsafe_code": True}, "no key 'unsafe_code'"),
        ({"use_prompt": "promptsource:*"}, "no key 'use_prompt'"),
        ({"dataset_path": "someone/code"}, "dataset_path"),
        ({"dataset_kwargs": {"trust_remote_code": True}}, "rows are those of items.jsonl"),
        ({"fewshot_split": "train"}, "rows are those of items.jsonl"),
        ({"output_type": "multiple_choice"}, "How likely given answers are cannot be asked"),
        ({"metric_list": [{"metric": "someone/metric"}]}, "metric_list"),
        ({"metric_list": [{"metric": "exact_match", "regexes_to_ignore": ["a"]}]}, "metric_list"),
        ({"generation_kwargs": {"temperature": 1}}, "temperature"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "custom"}]}]}, "filter_list"),
        ({"filter_list": [{"filter": [{"function": f}]} for f in ("take_first", "lowercase")]},
         "several filters"),
    ],
)  # fmt: skip
def test_what_runs_code_or_fetches_is_refused_with_the_reason(
    changes: dict[str, Any], said: str
) -> None:
    assert any(said in fault for fault in faults(changes)), faults(changes)


def test_functions_in_the_yaml_are_refused() -> None:
    text = yaml.safe_dump(SOUND) + "process_docs: !function utils.process_docs\n"
    assert any("tags" in str(fault) for fault in harness_faults("harness.yaml", text))
    with pytest.raises(ValueError, match="tags"):
        harness_task(text, "x", "y")
