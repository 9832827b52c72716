"""A task is data: a folder that says what is asked, how it is scored, and with which items."""

from adapters.tasks.folder import InvalidTask, TaskFile, TaskFolder, parse, read, side_of
from adapters.tasks.format import Item, TaskSpec
from adapters.tasks.strict_yaml import Problem

__all__ = [
    "InvalidTask", "Item", "Problem", "TaskFile", "TaskFolder", "TaskSpec", "parse", "read",
    "side_of",
]  # fmt: skip
