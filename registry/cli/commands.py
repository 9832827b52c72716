"""Any command of the registry by its name: the default for those without one of their own."""

from typing import Annotated, Any, get_args, get_type_hints

import msgspec
import typer

from adapters.fields import problem
from registry.cli.output import AsJson, client, emit, say
from registry.errors import BadRequest
from registry.model.base import Command
from registry.model.machine import commands


def register(app: typer.Typer) -> None:
    """Add this command to `lorary`."""
    app.command(rich_help_panel="Govern")(execute)


def execute(
    name: Annotated[
        str | None, typer.Argument(metavar="[COMMAND]", help="Without one, all are listed.")
    ] = None,
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Values as JSON.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run any command of the registry's API by its name.

    Example: lorary execute MoveAlias domain=medical adapter=coder alias=beta version=7
    """
    known = {name: kind for name, kind in commands().items() if kind.route is not None}
    if name is None:
        listed = {name: list(kind.__struct_fields__) for name, kind in known.items()}
        emit(listed, as_json, lambda: say("\n".join(_usage(known[name]) for name in known)))
        return
    if name not in known:
        raise BadRequest(f"There is no command {name[:60]!r}. List them: lorary execute")
    command = read_command(known[name], fields or [])
    with client() as registry:
        answer = registry.execute(command)
    emit(answer, as_json, lambda: say(msgspec.json.format(msgspec.json.encode(answer)).decode()))


def read_command(kind: type[Command], fields: list[str]) -> Command:
    """The command with the fields given as `FIELD=VALUE`; raises `BadRequest`."""
    given: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for field in fields:
        name, equals, text = field.partition("=")
        if not equals or name not in kind.__struct_fields__:
            raise BadRequest(f"Unknown field {field[:60]!r}. Write: {_usage(kind)}")
        given[name] = text if str in (hints[name], *get_args(hints[name])) else _json(text)
    try:
        command = msgspec.convert(given, kind)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise BadRequest(f"{error}. Write: {_usage(kind)}") from error
    if wrong := problem(command):
        raise BadRequest(f"{wrong}. Write: {_usage(kind)}")
    return command


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return text  # a word such as a rating, which its type then accepts or refuses


def _usage(kind: type[Command]) -> str:
    """The command with its fields; those that may be left out in brackets."""
    fields = msgspec.structs.fields(kind)
    texts = (f"{f.name}=..." if f.required else f"[{f.name}=...]" for f in fields)
    return f"{kind.__name__} {' '.join(texts)}"
