"""What a request's body may cost: decided before a byte of it is read, and enforced while it comes.

For each route there is one largest body and one role. The caller is authenticated from the
header, the cookie or the address first; who is not known gets nothing read, except where a route
is open, and there a few kilobytes. Bodies that are kept in memory share a bounded amount of it,
and each body must arrive at a minimum rate.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import LoraryError
from registry.errors import BadRequest, Forbidden, Overloaded, TooLarge, TooSlow, Unauthenticated
from registry.http.errors import HUB, PAGES, BodyRefused, answer
from registry.hub import tickets
from registry.model.access import UPLOADERS, Role, authenticate, bearer
from registry.model.catalog import Catalog, Key
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.times import utc_now
from registry.web import session

KIB, MIB = 1 << 10, 1 << 20
OPEN = 8 * KIB
"""Largest body of a caller who is not known, unless another bound is given."""
SMALL = 1 * MIB
"""Largest body of a known caller, unless another bound is given."""
VALUES = 100_000
"""JSON values of a body, unless another bound is given: parsing a million holds up every other
request for about half a second. Commas and opening brackets are counted, in texts, too."""
STREAMED = 1 * MIB
"""Memory that a body takes while it is written to the disk as it comes."""
MEMORY = 128 * MIB
"""Memory for the bodies of all unfinished requests together."""
SHARE = 64 * MIB
"""The part of it that one key may hold."""
OPEN_SHARE = 8 * MIB
"""The part of it that all callers who are not known may hold together."""
GRACE = 20.0
"""Seconds that any body may take."""
SLOWEST = 16 * KIB
"""Bytes that must arrive each second after that, on average."""
DRAINED = 64 * KIB
"""An unread body up to this size is skipped and the connection kept; else it is closed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The bodies of one route."""

    largest: int
    """Bytes."""
    roles: tuple[Role, ...] = ()
    """Of which the caller must hold one in some domain; the route asks for the right one. Empty:
    any key."""
    open: int = 0
    """Bytes that a caller who is not known may send."""
    memory: int | None = None
    """Bytes that stay in memory at the most; None: all of them."""
    values: int = VALUES
    """JSON values of a body that stays in memory."""


def rules(upload: int) -> tuple[tuple[str, re.Pattern[str], Rule], ...]:
    """The rules by method and path, the first match counts. upload: largest file in bytes."""
    table = (
        ("PUT", r"/api/v1/(?:blobs|parts)/[^/]+", Rule(upload, UPLOADERS, memory=STREAMED)),
        ("POST", r"/api/v1/uploads", Rule(16 * MIB, UPLOADERS, values=5 * VALUES)),
        (
            "POST",
            r"/api/v1/adapters/.*/evaluations",
            Rule(40 * MIB, ("evaluate",), values=10 * VALUES),
        ),
        ("POST", r"/api/v1/reviews", Rule(32 * MIB, ("evaluate",), values=5 * VALUES)),
        ("POST", r"/api/v1/bases", Rule(16 * MIB, ("operate",), values=5 * VALUES)),
        ("POST", r"/api/models/.*/commit/.*", Rule(2 * upload, ("publish",), memory=STREAMED)),
        ("POST", r"/api/models/.*/preupload/.*", Rule(4 * MIB, ("publish",))),
        ("POST", r"/api/validate-yaml", Rule(8 * MIB, open=64 * KIB)),
        ("POST", r"/upload", Rule(2 * upload, ("publish",), memory=32 * MIB)),
        ("POST", r"/log(?:in|out)", Rule(OPEN, open=OPEN)),
    )
    return tuple((method, re.compile(path, re.DOTALL), rule) for method, path, rule in table)


KNOWN = Rule(SMALL)
ANY = Rule(OPEN)


class Memory:
    """The memory that bodies of unfinished requests hold. For one event loop."""

    def __init__(self, total: int = MEMORY, share: int = SHARE, open_share: int = OPEN_SHARE):
        self._total, self._share, self._open_share = total, share, open_share
        self._held: Counter[str] = Counter()

    def take(self, holder: str, size: int) -> None:
        """Reserve `size` bytes for key id `holder` ("" for the unknown); raises `Overloaded`."""
        share = self._share if holder else self._open_share
        if self._held[holder] + size > share or self._held.total() + size > self._total:
            raise Overloaded("Too many unfinished requests hold memory. Repeat in a moment.")
        self._held[holder] += size

    def free(self, holder: str, size: int) -> None:
        """Give back what was reserved."""
        self._held[holder] -= size
        if not self._held[holder]:
            del self._held[holder]


class BodyLimits:
    """ASGI middleware that refuses bodies before they are read, and bounds those that are."""

    def __init__(self, app: ASGIApp, settings: RegistrySettings, *, grace: float = GRACE) -> None:
        self._app, self._grace = app, grace
        self._rules = rules(settings.max_upload_bytes)
        self._memory = Memory()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass requests on whose bodies are allowed."""
        if scope["type"] != "http" or not _has_body(request := Request(scope)):
            await self._app(scope, receive, send)
            return
        declared = None
        try:
            declared = _declared(request)
            holder, rule = await self._admit(request, declared)
            body = _Body(receive, self._memory, holder, rule, declared, self._grace)
        except LoraryError as error:
            response = answer(request, error)
            if declared is None or declared > DRAINED:
                response.headers["connection"] = "close"
            await response(scope, receive, send)
            return
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.free()

    async def _admit(self, request: Request, declared: int | None) -> tuple[str, Rule]:
        """The id of the caller's key and the rule for the body; raises what is wrong."""
        method, path = request.method, request.url.path
        rule = next((r for m, p, r in self._rules if m == method and p.fullmatch(path)), None)
        if path.startswith("/lfs/"):
            key, size = await _known(request, _ticket)
            rule = Rule(size, ("publish",), memory=STREAMED)
        else:
            page, api = PAGES.fullmatch(path), path.startswith("/api/") or HUB.fullmatch(path)
            if rule is None and not page and not api:
                return "", ANY  # nothing there reads a body
            rule = rule or KNOWN
            try:
                key, _ = await _known(request, _session if page else _header)
            except Unauthenticated:
                if not rule.open or _larger(declared, rule.open):
                    raise
                return "", Rule(rule.open, open=rule.open)
        request.state.actor = key.id
        if rule.roles and all(grant.role not in rule.roles for grant in key.grants):
            asked = " or ".join(map(repr, rule.roles))
            raise Forbidden(
                f"Key {key.id} has the role {asked} in no domain. Ask an operator for it."
            )
        if _larger(declared, rule.largest):
            raise _too_large(rule)
        return key.id, rule


class _Body:
    """A body that is allowed, while it comes."""

    def __init__(
        self,
        receive: Receive,
        memory: Memory,
        holder: str,
        rule: Rule,
        declared: int | None,
        grace: float,
    ) -> None:
        self._receive, self._memory, self._holder, self._rule = receive, memory, holder, rule
        self._due = asyncio.get_running_loop().time() + grace
        self._came = self._held = self._values = 0
        self._complete = False
        self._hold(declared or 0)

    async def receive(self) -> Message:
        """The next message; raises `BodyRefused` for a body that breaks its bounds."""
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._due + self._came / SLOWEST):
                message = await self._receive()
        except TimeoutError as error:
            late = TooSlow(f"Only {self._came} bytes of the body arrived in time. Send it again.")
            raise BodyRefused(late) from error
        if message["type"] == "http.request":
            piece: bytes = message.get("body", b"")
            self._came += len(piece)
            self._complete = not message.get("more_body", False)
            if self._came > self._rule.largest:
                raise BodyRefused(_too_large(self._rule))
            if self._rule.memory is None:
                self._values += sum(map(piece.count, (b",", b"[", b"{")))
                if self._values > self._rule.values:
                    raise BodyRefused(_too_many(self._rule))
            try:
                self._hold(self._came)
            except Overloaded as error:
                raise BodyRefused(error) from error
        return message

    def _hold(self, size: int) -> None:
        """Reserve memory for a body of `size` bytes so far."""
        most = self._rule.largest if self._rule.memory is None else self._rule.memory
        more = min(size, most) - self._held
        if more > 0:
            self._memory.take(self._holder, more)
            self._held += more

    def free(self) -> None:
        """Give the memory back."""
        if self._held:
            self._memory.free(self._holder, self._held)
            self._held = 0


Proof = Callable[[Request, Catalog], tuple[Key, int]]
"""Reads from a request whose it is; raises `Unauthenticated`. The number is a ticket's size."""


async def _known(request: Request, prove: Proof) -> tuple[Key, int]:
    """Whose request it is, by what this process knows or, if that is not enough, the store."""
    registry: Registry = request.app.state.registry
    try:
        return prove(request, registry.catalog)
    except Unauthenticated:
        return prove(request, await run_in_threadpool(registry.refresh))


def _header(request: Request, catalog: Catalog) -> tuple[Key, int]:
    presented = bearer(request.headers.get("authorization"))
    return authenticate(catalog, presented, utc_now()), 0


def _session(request: Request, catalog: Catalog) -> tuple[Key, int]:
    return session.token_of(request, catalog).key, 0


def _ticket(request: Request, catalog: Catalog) -> tuple[Key, int]:
    settings: RegistrySettings = request.app.state.settings
    text = request.url.path.removeprefix("/lfs/")
    key, _, size = tickets.redeem(catalog, text, settings.session_secret.get_secret_value())
    return key, size


def _has_body(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in request.headers


def _declared(request: Request) -> int | None:
    """The size in bytes that the request declares; None for a body in chunks."""
    text = request.headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest("Content-Length is not a number of bytes. Correct the request.")
    return int(text)


def _larger(declared: int | None, limit: int) -> bool:
    return declared is not None and declared > limit


def _too_many(rule: Rule) -> TooLarge:
    return TooLarge(f"The body has more than {rule.values:,} values. Send fewer.")


def _too_large(rule: Rule) -> TooLarge:
    return TooLarge(f"The body is above the limit of {rule.largest} bytes. Send less.")
