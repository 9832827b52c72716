"""Folders as trainers write them: admission accepts what vLLM serves, else says the true reason.

The table says what vLLM answers to each folder; `tests/components/test_vllm_judges.py` asks it.
"""

from collections import Counter

import pytest

from adapters.admission import admit
from tests.support.foreign import CASES, Case
from tests.support.uploads import Bytes

TOOLS = (
    "PEFT 0.2", "PEFT 0.21", "Unsloth", "Axolotl", "LLaMA-Factory", "TRL", "torchtune", "MLX",
    "ms-swift",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_trainers_folder_is_admitted_or_refused_for_what_is_wrong_with_it(case: Case) -> None:
    files = {name: Bytes(data) for name, data in case.files().items()}
    admission = admit(files, case.base)
    said = [str(problem) for problem in admission.problems]
    if case.says:
        assert any(case.says in problem for problem in said), said
    else:
        assert said == []
    assert (admission.facts is None) == bool(case.says)
    for problem in admission.problems:
        assert problem.remedy.endswith(".")
        assert len(str(problem)) < 600


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_admitted_that_vllm_does_not_serve_nor_refused_without_a_reason(
    case: Case,
) -> None:
    if not case.says:
        assert case.vllm == "serves"
    assert bool(case.why) == (bool(case.says) and case.vllm == "serves")


def test_the_table_has_every_tool_and_no_folder_twice() -> None:
    assert len(CASES) >= 60
    assert max(Counter(map(str, CASES)).values()) == 1
    assert {case.tool for case in CASES} >= set(TOOLS)
