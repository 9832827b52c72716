"""How commands print, and what they share: a client, options, progress."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from adapters.errors import InvalidName
from adapters.names import DEFAULT_ALIAS, AdapterRef
from adapters.options import AsJson as AsJson
from adapters.terminal import plain
from registry.client import RegistryClient
from registry.settings import ClientSettings

AliasRef = Annotated[str, typer.Argument(help="DOMAIN/ADAPTER[@ALIAS]")]


@contextmanager
def client() -> Iterator[RegistryClient]:
    """A client as the settings say."""
    settings = ClientSettings()
    with RegistryClient(settings.registry_url, settings.key.get_secret_value()) as opened:
        yield opened


def alias_of(text: str) -> tuple[str, str, str]:
    """Domain, adapter and alias, `production` if none is given; raises `InvalidName`."""
    ref = AdapterRef.parse(text)
    if ref.adapter is None or ref.version is not None:
        raise InvalidName(f"{text[:80]!r} does not name an alias. Write DOMAIN/ADAPTER@ALIAS.")
    return ref.domain, ref.adapter, ref.alias or DEFAULT_ALIAS


def escaped(text: str) -> str:
    """As `plain`, for places where rich reads markup."""
    return escape(plain(text))


def emit(value: Any, as_json: bool, show: Callable[[], None]) -> None:
    """Print `value` as JSON, or let `show` print it for people."""
    if as_json:
        print(json.dumps(value, indent=2))
    else:
        show()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their titles.

    The first column names what a row is about, for use in other commands, so it is never cut;
    long words of the others go on in the next line.
    """
    drawn = Table(*columns, box=None, pad_edge=False)
    for column in drawn.columns:
        column.overflow = "fold"
    drawn.columns[0].min_width = max([0, *(len(plain(str(row[0]))) for row in rows)])
    for row in rows:
        drawn.add_row(*(Text(plain(str(cell))) for cell in row))
    Console().print(drawn)


def say(text: str) -> None:
    """One line for people, whatever brackets it holds."""
    Console().print(plain(text), markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """One line on standard error, so that what a script reads stays as it is."""
    Console(stderr=True).print(plain(text), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(
    *, quiet: bool, transfer: bool = False
) -> Iterator[Callable[[str, int, int], None]]:
    """A function to call with what is being done, how much is done and how much there is."""
    amount = DownloadColumn() if transfer else MofNCompleteColumn()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        amount,
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as bars:
        known: dict[str, Any] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(plain(what), total=total or None)
            bars.update(known[what], completed=done, total=total or None)

        yield advance
