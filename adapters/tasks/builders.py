"""Items that are made from pinned sources instead of read from `items.jsonl`, by name.

Only data sets that Lorary ships have a builder: a task from elsewhere cannot name code to be run.
"""

from collections.abc import Callable, Mapping

from adapters.tasks.format import Item, TaskSpec

BUILDERS: Mapping[str, Callable[[TaskSpec], tuple[Item, ...]]] = {}
