"""What is printed for people: plain text, and a sign of life where something takes long."""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


def plain(text: str) -> str:
    """`text` as a terminal may get it: what others wrote cannot move the cursor, set a title, turn
    the direction of writing, or hide. Lines and tabs stay; other controls are shown as escapes."""
    return "".join(
        letter
        if letter.isprintable() or letter in "\n\t" or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Show on standard error that `what` is being done, and for how long, if somebody watches."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    disabled = quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=disabled, transient=True) as shown:
        shown.add_task(plain(what), total=None)
        yield
