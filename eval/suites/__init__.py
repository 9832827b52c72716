"""What a version is asked: tasks of lm-evaluation-harness, made from the domain packs."""

from eval.suites.domains import suites_of
from eval.suites.suite import Question, Suite, Task

__all__ = ["Question", "Suite", "Task", "suites_of"]
