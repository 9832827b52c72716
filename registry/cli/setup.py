"""Commands of an operator: create a registry, serve it, show the configuration."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from registry.cli.output import AsJson, emit, say, table
from registry.errors import BadRequest
from registry.maintain.private_file import replacing
from registry.model.access import RECOVERY, Secret
from registry.model.keys import RecoverAccess
from registry.registry import Registry
from registry.settings import RegistrySettings

SETTINGS = "lorary.settings"
"""Entry-point group; each entry is a settings class."""


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command(rich_help_panel="Set up")(init)
    app.command(rich_help_panel="Govern")(recover)
    app.command("serve-registry", rich_help_panel="Set up")(serve_registry)
    app.command(rich_help_panel="Set up")(config)


def init(
    name: Annotated[str, typer.Option(help="The registry's name, for people.")] = "lorary",
    key_file: Annotated[
        Path | None, typer.Option(help="Write the operator's key here, readable by you only.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a registry in the store and issue its first operator key, shown once.

    Refuses a store that does not honour conditional writes.

    Example: lorary init --name hospital --key-file operator.key
    """
    settings = RegistrySettings()
    with _prepared(key_file) as keep:
        secret = Registry.create(settings.open_store_to_write(), name=name, key_name="operator")
        keep(secret)
    _announce(secret, key_file, f"Registry created in {settings.store}.", as_json)


def recover(
    reason: Annotated[str, typer.Option(help="Why; recorded in the audit log.")],
    key_file: Annotated[
        Path | None, typer.Option(help="Write the operator's key here, readable by you only.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Issue a new operator key from the store itself, when every other one is lost.

    The audit log records the command under the actor `recovery`.

    Example: lorary recover --reason "the operator left" --key-file operator.key
    """
    settings = RegistrySettings()
    secret = Secret.generate()
    with _prepared(key_file) as keep:
        registry = Registry(settings.open_store_to_write())
        try:
            registry.execute(
                RecoverAccess(secret.id, "recovered operator", secret.digest, reason), RECOVERY
            )
        finally:
            registry.close()
        keep(secret)
    _announce(secret, key_file, f"Access to {settings.store} is recovered.", as_json)


@contextmanager
def _prepared(key_file: Path | None) -> Iterator[Callable[[Secret], None]]:
    """A function that writes a key to `key_file`, which is prepared before there is a key: one that
    was issued and could not be written would be lost. Raises `BadRequest`."""
    if key_file is None:
        yield lambda _: None
        return
    try:
        key_file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequest(f"{key_file.parent} cannot be made: {error.strerror}.") from error
    with replacing(key_file) as file:
        yield lambda secret: file.writelines([f"{secret.text}\n".encode()])


def _announce(secret: Secret, key_file: Path | None, done: str, as_json: bool) -> None:
    """Say where an operator's key is, or show it."""
    shown = str(key_file) if key_file else secret.text
    emit(
        {"store": RegistrySettings().store, "key_file" if key_file else "key": shown},
        as_json,
        lambda: say(f"{done} Operator's key: {shown}"),
    )


def serve_registry(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Start the registry's HTTP service and its web pages.

    Example: lorary serve-registry --port 8100
    """
    from registry import server
    from registry.http import create_app

    settings = RegistrySettings()
    app = create_app(settings)
    server.serve(
        app,
        host or settings.registry_host,
        port or settings.registry_port,
        trusted=settings.trusted_proxies,
        on_shutdown=app.state.streams.close,
    )


def config(as_json: AsJson = False) -> None:
    """Show every setting, its value and where the value comes from. Secrets are masked.

    Example: lorary config --json
    """
    rows: dict[str, dict[str, Any]] = {}
    for entry in sorted(entry_points(group=SETTINGS), key=lambda entry: entry.name):
        kind: type[BaseSettings] = entry.load()
        values = kind()
        for field, info in kind.model_fields.items():
            name = f"LORARY_{field.upper()}"
            rows[name] = {
                "value": _masked(getattr(values, field)),
                "source": "environment" if name in os.environ else "default",
                "meaning": info.description,
            }
    emit(
        rows,
        as_json,
        lambda: table(
            ["setting", "value", "from", "meaning"],
            [[name, row["value"], row["source"], row["meaning"]] for name, row in rows.items()],
        ),
    )


def _masked(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "********" if value.get_secret_value() else ""
    return value if isinstance(value, int | float | bool) or value is None else str(value)
