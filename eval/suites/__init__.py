"""What a version is asked: suites, made from tasks."""

from eval.suites.shipped import suites_of
from eval.suites.suite import Question, Suite, Task
from eval.suites.tasks import suite_of

__all__ = ["Question", "Suite", "Task", "suite_of", "suites_of"]
