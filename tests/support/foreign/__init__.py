"""Adapter folders as trainers write them: one table, judged by admission and by vLLM."""

from tests.support.foreign import peft_writes, trainers_write, values
from tests.support.foreign.case import Case

__all__ = ["CASES", "Case"]

CASES: list[Case] = [*peft_writes.CASES, *trainers_write.CASES, *values.CASES]
