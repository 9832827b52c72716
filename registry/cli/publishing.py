"""Commands of a team: push, pull, and point aliases at versions."""

from pathlib import Path
from typing import Annotated

import typer

from adapters.errors import InvalidName
from adapters.names import DEFAULT_ALIAS, AdapterRef
from registry import signing
from registry.cli.choosing import key_names
from registry.cli.output import AsJson, client, emit, progress_bar, say, table
from registry.errors import BadRequest
from registry.model.aliases import MoveAlias, RemoveAlias

Ref = Annotated[str, typer.Argument(help="DOMAIN/ADAPTER[@VERSION|@ALIAS]")]

Parallel = Annotated[int, typer.Option(min=1, max=32, help="Connections for a file's parts.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command(rich_help_panel="Publish")(push)
    app.command(rich_help_panel="Publish")(pull)
    aliases = typer.Typer(
        no_args_is_help=True, help="Point aliases at versions: promote and roll back."
    )
    aliases.command("set")(set_alias)
    aliases.command("ls")(list_aliases)
    aliases.command("rm")(remove_alias)
    aliases.command("rollback")(roll_back)
    app.add_typer(aliases, name="alias", rich_help_panel="Release")


def push(
    directory: Annotated[
        Path, typer.Argument(help="The directory that PEFT saved the adapter to.")
    ],
    path: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER")],
    alias: Annotated[str | None, typer.Option(help="Point this alias at the version.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Registered base model; by default the declared one.")
    ] = None,
    only_adapter_files: Annotated[
        bool, typer.Option(help="Skip files that are not accepted, instead of failing.")
    ] = False,
    sign: Annotated[
        Path | None, typer.Option(exists=True, help="Sign with this private key (PEM) first.")
    ] = None,
    expected: Annotated[
        int | None, typer.Option(help="Only if this is the newest version now (0: none).")
    ] = None,
    parallel: Parallel = 4,
    as_json: AsJson = False,
) -> None:
    """Publish an adapter as the next version. Repeating a push is safe.

    Example: lorary push out/icd10-coder medical/icd10-coder --alias candidate

    Example: lorary push out/icd10-coder medical/icd10-coder --expected 7
    """
    if sign is not None:
        signing.sign(directory, sign)
    with client() as registry, progress_bar(quiet=as_json, transfer=True) as progress:
        version = registry.push(
            directory,
            path,
            base=base,
            only_adapter_files=only_adapter_files,
            expected=expected,
            parallel=parallel,
            progress=progress,
        )
        if alias is not None:
            domain, adapter, number = AdapterRef.parse_version(version["ref"])
            registry.execute(MoveAlias(domain, adapter, alias, number))
    moved = f", {alias} points to it" if alias else ""
    emit(version, as_json, lambda: say(f"{version['ref']}  {version['digest']}{moved}"))


def pull(
    ref: Ref,
    directory: Annotated[Path, typer.Argument(help="Where to put the files.")],
    parallel: Parallel = 4,
    as_json: AsJson = False,
) -> None:
    """Download a version and verify every file.

    Example: lorary pull medical/icd10-coder@7 icd10-coder-7
    """
    with client() as registry, progress_bar(quiet=as_json, transfer=True) as progress:
        version = registry.pull(ref, directory, parallel=parallel, progress=progress)
    emit(version, as_json, lambda: say(f"{version['ref']} is in {directory}"))


def set_alias(
    ref: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION")],
    alias: Annotated[str, typer.Argument(help="The alias to move.")],
    expected: Annotated[
        int | None, typer.Option(help="Only if it points to this version now (0: none).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version.

    Example: lorary alias set medical/icd10-coder@8 production --expected 7
    """
    domain, name, version = AdapterRef.parse_version(ref)
    with client() as registry:
        adapter = registry.execute(MoveAlias(domain, name, alias, version, expected))
    emit(adapter, as_json, lambda: say(f"{domain}/{name}@{alias} is now version {version}"))


def remove_alias(
    path: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER")],
    alias: Annotated[str, typer.Argument(help="The alias to remove.")],
    as_json: AsJson = False,
) -> None:
    """Remove an alias; its callers get 404 until it is set again.

    Example: lorary alias rm medical/icd10-coder candidate
    """
    domain, name = _adapter(path)
    with client() as registry:
        adapter = registry.execute(RemoveAlias(domain, name, alias))
    emit(adapter, as_json, lambda: say(f"{path}@{alias} is removed."))


def roll_back(
    path: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER")],
    alias: Annotated[str, typer.Argument(help="The alias to move back.")] = DEFAULT_ALIAS,
    as_json: AsJson = False,
) -> None:
    """Move an alias back to the version that it pointed to before.

    Example: lorary alias rollback medical/icd10-coder
    """
    domain, name = _adapter(path)
    with client() as registry:
        moves = [move for move in registry.adapter(path)["moves"] if move["alias"] == alias]
        if not moves or not moves[-1]["previous"]:
            raise BadRequest(
                f"{path}@{alias} pointed to no version before. See: lorary alias ls {path}"
            )
        now, before = moves[-1]["version"], moves[-1]["previous"]
        adapter = registry.execute(MoveAlias(domain, name, alias, before, now))
    emit(adapter, as_json, lambda: say(f"{path}@{alias} is version {before} again, not {now}"))


def _adapter(path: str) -> tuple[str, str]:
    """Domain and name of an adapter; raises `InvalidName` for anything else."""
    ref = AdapterRef.parse(path)
    if ref.adapter is None or ref.path != path:
        raise InvalidName(f"{path[:80]!r} does not name an adapter. Write DOMAIN/ADAPTER.")
    return ref.domain, ref.adapter


def list_aliases(
    path: Annotated[str, typer.Argument(help="DOMAIN/ADAPTER")], as_json: AsJson = False
) -> None:
    """List an adapter's aliases and every change of them.

    Example: lorary alias ls medical/icd10-coder
    """
    with client() as registry:
        adapter = registry.adapter(path)
        names = {} if as_json else key_names(registry)
    moves = [
        [
            move["alias"],
            move["previous"] or "-",
            move["version"] or "removed",
            names.get(move["actor"], move["actor"]),
            move["time"],
        ]
        for move in adapter["moves"]
    ]

    def show() -> None:
        table(["alias", "from", "to", "by", "at"], moves)
        for alias, split in adapter["splits"].items():
            say(f"{alias}: canary, {split['percent']} % get version {split['candidate']}")
        for ended in adapter["rollbacks"]:
            say(
                f"{ended['time']} {ended['alias']}: version {ended['candidate']} was rolled back, "
                f"reported by {names.get(ended['actor'], ended['actor'])}: {ended['seen']}"
            )

    shown = {name: adapter[name] for name in ("aliases", "splits", "moves", "rollbacks")}
    emit(shown, as_json, show)
