"""Webhooks: addresses to which the registry sends its public events."""

from collections.abc import Iterable
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from annotated_types import MaxLen

from adapters.fields import Count, Name, Url
from registry import errors
from registry.model.access import ANY_DOMAIN, Role
from registry.model.base import Command, Draft, Event, Route, made_of
from registry.model.catalog import Catalog, Webhook

EventType = Literal[
    "ai.lorary.version.published",
    "ai.lorary.version.evaluated",
    "ai.lorary.version.approved",
    "ai.lorary.version.revoked",
    "ai.lorary.review.waiting",
    "ai.lorary.alias.promoted",
    "ai.lorary.alias.rolled_back",
]
"""Types of public events. `registry.notify.cloudevents` makes them from the log."""
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
MAX_WEBHOOKS, PER_DOMAIN = 50, 10
"""Webhooks of a registry, and of one domain, so that no operator of a domain uses up all."""


class WebhookAdded(Event, frozen=True):
    """Public events after commit `after` are sent to an address. Its secret is not in the log."""

    optional = True
    webhook: str
    url: str
    domain: str
    """`*`: all domains."""
    types: tuple[str, ...]
    """Empty: all types."""
    after: int

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Add the webhook."""
        hook = made_of(Webhook, self, id=self.webhook, added=at, added_by=by)
        draft.webhooks[self.webhook] = hook


class WebhookRemoved(Event, frozen=True):
    """Nothing more is sent to the address; what was not delivered is dropped."""

    optional = True
    webhook: str

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Remove the webhook."""
        draft.webhooks.pop(self.webhook, None)


class DeadLettersResent(Event, frozen=True):
    """Dead letters that were given up at commit `through` or before are sent again."""

    optional = True
    webhook: str
    through: int

    def apply(self, draft: Draft, by: str, at: str) -> None:
        """Note the commit; the process that delivers acts on it."""
        hook = draft.webhooks[self.webhook]
        draft.webhooks[self.webhook] = msgspec.structs.replace(hook, resent=self.through)


class AddWebhook(Command, frozen=True):
    """Send public events of a domain to an address, from commit `after` on; None: from now on."""

    event = WebhookAdded
    webhook: Name
    url: Url
    domain: Name = ANY_DOMAIN
    types: Annotated[tuple[EventType, ...], MaxLen(len(EVENT_TYPES))] = ()
    after: Count | None = None

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Add it; the same again changes nothing."""
        if self.domain != ANY_DOMAIN:
            catalog.domain(self.domain)
        check_url(self.url)
        known = catalog.webhooks.get(self.webhook)
        if known is not None:
            asked = (self.url, self.domain, self.types, self.after)
            after = None if self.after is None else known.after
            if asked == (known.url, known.domain, known.types, after):
                return
            raise errors.Conflict(f"Webhook {self.webhook!r} exists. Add another one.")
        if len(catalog.webhooks) >= MAX_WEBHOOKS:
            raise errors.Conflict(f"There are {MAX_WEBHOOKS} webhooks, the most. Remove one.")
        if sum(h.domain == self.domain for h in catalog.webhooks.values()) >= PER_DOMAIN:
            raise errors.Conflict(
                f"There are {PER_DOMAIN} webhooks for {self.domain!r}, the most. Remove one."
            )
        after = catalog.sequence if self.after is None else self.after
        if after > catalog.sequence:
            raise errors.BadRequest(
                f"Commit {after} does not exist yet; the last one is {catalog.sequence}. "
                "Choose an earlier one."
            )
        yield self.caused(after=after)


class RemoveWebhook(Command, frozen=True):
    """Stop sending events to a webhook and drop what was not delivered."""

    event = WebhookRemoved
    route = Route("DELETE", "/webhooks/{webhook}")
    webhook: Name

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """The role in the webhook's domain."""
        return self.role, find(catalog, self.webhook).domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Remove it. Raises `UnknownWebhook`."""
        find(catalog, self.webhook)
        yield self.caused()


class ResendDeadLetters(Command, frozen=True):
    """Send again the dead letters that were given up at commit `through` or before."""

    event = DeadLettersResent
    route = Route("POST", "/webhooks/{webhook}/dead-letters/resend")
    webhook: Name
    through: Count

    def needs(self, catalog: Catalog) -> tuple[Role, str]:
        """The role in the webhook's domain."""
        return self.role, find(catalog, self.webhook).domain

    def decide(self, catalog: Catalog, by: str, now: str) -> Iterable[Event]:
        """Send them again; the same again changes nothing."""
        hook = find(catalog, self.webhook)
        if self.through > catalog.sequence:
            raise errors.BadRequest(
                f"Commit {self.through} does not exist yet. Take `through` from the list of dead "
                "letters."
            )
        if self.through > hook.resent:
            yield self.caused()


def find(catalog: Catalog, webhook: str) -> Webhook:
    """The webhook; raises `UnknownWebhook`."""
    found = catalog.webhooks.get(webhook)
    if found is None:
        raise errors.UnknownWebhook(
            f"There is no webhook {webhook[:40]!r}. List them: lorary webhook ls"
        )
    return found


def check_url(url: str) -> None:
    """Raises `BadRequest` unless `url` is an HTTP address without credentials or a fragment."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not (url.isascii() and url.isprintable()) or " " in url:
        raise errors.BadRequest(f"Invalid URL {url[:100]!r}. Use https://HOST/PATH.")
    if "@" in parts.netloc or parts.fragment:
        raise errors.BadRequest(
            "A webhook's URL is kept in the log, so it holds no user, password or fragment. "
            "Receivers verify the signature instead."
        )
