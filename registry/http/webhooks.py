"""Routes of webhooks that do more than carry out one command."""

import secrets
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Response

from adapters.fields import Name
from registry.errors import BadRequest
from registry.http.access import CallerDep
from registry.http.schemas import Body, FieldsOf, given
from registry.model.access import may_audit, require_audit
from registry.model.catalog import Webhook
from registry.model.webhooks import AddWebhook, check_url, find
from registry.notify import lease
from registry.notify.addresses import check_target
from registry.notify.progress import Delivery, Progress
from registry.notify.signature import secret_of

router = APIRouter(tags=["webhooks"])


@router.post("/webhooks", status_code=201)
def add_webhook(
    caller: CallerDep, body: Annotated[Body, FieldsOf(AddWebhook, "webhook")], response: Response
) -> dict[str, Any]:
    """Add a webhook; this answer is the only one that holds its secret."""
    command = AddWebhook(webhook=secrets.token_hex(6), **given(body))
    caller.require("operate", command.domain)
    sources = caller.settings.webhook_secrets
    if not sources:
        raise BadRequest(
            "Webhooks are off: this registry has no secret to sign events with. Set "
            "LORARY_WEBHOOK_SECRET, the same for all its processes, and restart them."
        )
    check_url(command.url)
    check_target(command.url, caller.settings.allowed_webhook_hosts)
    caller.registry.execute(command, caller.key.id)
    catalog = caller.registry.catalog
    hook = find(catalog, command.webhook)
    response.headers["Cache-Control"] = "no-store"
    secret = secret_of(hook, catalog.registry, sources[0])
    return {**webhook_view(hook, None), "secret": secret}


@router.get("/webhooks")
def list_webhooks(caller: CallerDep) -> list[dict[str, Any]]:
    """The webhooks of the domains that the caller operates or audits, and how far each is."""
    hooks = [h for h in caller.catalog.webhooks.values() if may_audit(caller.key, h.domain)]
    saved = lease.newest(caller.registry.store) if hooks else None
    return [webhook_view(hook, saved.hooks.get(hook.id) if saved else None) for hook in hooks]


@router.get("/webhooks/{webhook}/dead-letters")
def list_dead_letters(caller: CallerDep, webhook: Name) -> dict[str, Any]:
    """The events that could not be delivered to a webhook, oldest first.

    `through` is what `POST .../dead-letters/resend` takes to send them again.
    """
    hook = find(caller.catalog, webhook)
    require_audit(caller.key, hook.domain)
    saved = lease.newest(caller.registry.store)
    progress = saved.hooks.get(hook.id) if saved else None
    # What an operator asked to send again is no longer dead, whether or not it was sent yet.
    dead = [one for one in progress.dead if one.dead > hook.resent] if progress else []
    return {
        "webhook": hook.id,
        "dead_letters": [_delivery_view(delivery) for delivery in dead],
        "dropped": progress.dropped if progress else 0,
        "through": max((delivery.dead for delivery in dead), default=hook.resent),
    }


def webhook_view(hook: Webhook, progress: Progress | None) -> dict[str, Any]:
    """A webhook without its secret; `waiting` and `dead_letters` as they were last saved."""
    view: dict[str, Any] = msgspec.to_builtins(hook)
    del view["resent"]
    waiting = progress.waiting if progress else ()
    return view | {
        "cursor": progress.cursor if progress else str(hook.after),
        "waiting": len(waiting),
        "dead_letters": len(progress.dead) if progress else 0,
        "error": next((delivery.error for delivery in waiting if delivery.error), None),
    }


def _delivery_view(delivery: Delivery) -> dict[str, Any]:
    return {
        "event": delivery.id,
        "type": delivery.type,
        "subject": delivery.subject,
        "attempts": delivery.attempts,
        "error": delivery.error,
    }
