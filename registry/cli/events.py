"""Commands about public events and webhooks."""

import json
from typing import Annotated, Any

import typer

from adapters.terminal import plain
from registry.cli.choosing import chosen
from registry.cli.output import AsJson, client, emit, say, table, warn
from registry.client import RegistryClient
from registry.model.webhooks import RemoveWebhook, ResendDeadLetters

Webhook = Annotated[str, typer.Argument(help="The webhook's id or URL.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command(rich_help_panel="Govern")(events)
    webhooks = typer.Typer(no_args_is_help=True, help="Send events to other systems over HTTP.")
    webhooks.command("add")(add)
    webhooks.command("ls")(list_webhooks)
    webhooks.command("rm")(remove)
    webhooks.command("dead-letters")(list_dead_letters)
    webhooks.command("retry")(retry)
    app.add_typer(webhooks, name="webhook", rich_help_panel="Govern")


def events(
    after: Annotated[
        str, typer.Option(help="Only events after this commit, or after the event with this id.")
    ] = "0",
    follow: Annotated[bool, typer.Option("--follow", help="Wait for new events.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the public events of your domains, oldest first.

    With --json each event is one line, a CloudEvent.

    Example: lorary events --after 40 --follow
    """
    with client() as registry:
        for event in registry.follow_events(after) if follow else registry.events(after):
            print(json.dumps(event) if as_json else _line(event), flush=follow)


def _line(event: dict[str, Any]) -> str:
    kind = event["type"].removeprefix("ai.lorary.")
    return plain(f"{event['id']:<8}  {event['time']}  {kind:<18}  {event['subject']}")


def add(
    url: Annotated[str, typer.Argument(help="https://HOST/PATH of the receiver.")],
    domain: Annotated[str, typer.Option(help="Only events of this domain.")] = "*",
    type_: Annotated[
        list[str], typer.Option("--type", help="Only events of this type, such as alias.promoted.")
    ] = [],  # noqa: B006 - typer copies it
    after: Annotated[
        int | None, typer.Option(min=0, help="Start after this commit; by default with new events.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send events to a URL, signed with a secret that is shown once.

    Example: lorary webhook add https://ci.example/lorary --domain medical --type alias.promoted
    """
    types = [f"ai.lorary.{name.removeprefix('ai.lorary.')}" for name in type_]
    with client() as registry:
        added = registry.add_webhook(url, domain=domain, types=types, after=after)
    emit(added, as_json, lambda: say(f"Webhook {added['id']}. Its secret: {added['secret']}"))
    warn("The secret is not shown again. Give it to the receiver, which verifies signatures.")


def _chosen(registry: RegistryClient, webhook: str) -> str:
    return chosen("webhook", webhook, registry.webhooks(), "url", "lorary webhook ls")


def list_webhooks(as_json: AsJson = False) -> None:
    """List webhooks and the state of their deliveries.

    Example: lorary webhook ls
    """
    with client() as registry:
        hooks = registry.webhooks()
    columns = ["webhook", "url", "domain", "waiting", "dead letters", "last error"]
    rows = [
        [h["id"], h["url"], h["domain"], h["waiting"], h["dead_letters"], h["error"] or ""]
        for h in hooks
    ]
    emit(hooks, as_json, lambda: table(columns, rows))


def remove(webhook: Webhook, as_json: AsJson = False) -> None:
    """Remove a webhook. Events that were not delivered yet are dropped.

    Example: lorary webhook rm https://ci.example/lorary
    """
    with client() as registry:
        removed = registry.execute(RemoveWebhook(_chosen(registry, webhook)))
    emit(removed, as_json, lambda: say(f"Webhook {webhook} is removed."))


def list_dead_letters(webhook: Webhook, as_json: AsJson = False) -> None:
    """List the events that could not be delivered to a webhook.

    Example: lorary webhook dead-letters 1f2e3d4c5b6a
    """
    with client() as registry:
        found = registry.dead_letters(_chosen(registry, webhook))
    names = ["event", "type", "subject", "attempts", "error"]
    rows = [[letter[name] for name in names] for letter in found["dead_letters"]]
    emit(found, as_json, lambda: table(names, rows))


def retry(webhook: Webhook, as_json: AsJson = False) -> None:
    """Send a webhook's dead letters again.

    Example: lorary webhook retry 1f2e3d4c5b6a
    """
    with client() as registry:
        webhook = _chosen(registry, webhook)
        found = registry.dead_letters(webhook)
        if found["dead_letters"]:
            registry.execute(ResendDeadLetters(webhook, found["through"]))
    count = len(found["dead_letters"])
    emit({"webhook": webhook, "resent": count}, as_json, lambda: say(f"{count} sent again."))
