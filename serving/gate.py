"""The gate: the outermost layer of vLLM's API process.

Every request is authenticated, resolved, authorised and admitted here, and reaches vLLM under the
name of one pinned version, or does not reach it. What is not on the list of routes does not exist.
Answers pass through as they come, with the version that gave them in the headers.

Extension point: `--middleware serving.gate.Gate`, a pure ASGI class.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import LoraryError
from adapters.names import AdapterRef
from registry.access import (
    authenticate,
    bearer,
    may_observe,
    may_see,
    require,
    require_observe,
)
from registry.catalog import Catalog, Key, Version
from registry.errors import Forbidden, NotFound, Unauthenticated, UnknownAdapter
from registry.times import utc_now
from serving.errors import Broken, RouteNotFound
from serving.grammars.wanted import grammars
from serving.outcomes.feedback import FEEDBACK_FIELDS, MAX_FEEDBACK_BYTES, give
from serving.outcomes.response_ids import PREFIXES
from serving.replica import Replica, current
from serving.request.answers import Noting, answer, refuse
from serving.request.body import (
    MAX_HINT_BYTES,
    json_object,
    parse_body,
    parse_hint,
    read_body,
    sequences,
)
from serving.request.confidence import Judge, terms
from serving.request.fields import FIELDS, RESPONSES_FIELDS
from serving.request.flights import watch
from serving.request.listing import Base, encoded, named
from serving.request.scopes import (
    DETAILS,
    allowed_seconds,
    declared_length,
    flag,
    header,
    inner,
    routed,
    sticky,
)
from serving.telemetry import journal
from serving.telemetry.metering import Meter
from serving.telemetry.metrics import REFUSALS
from serving.tiers.residency import reconcile_regularly
from serving.tiers.warming import follow

RESPONSES = "/v1/responses"
GENERATION = {
    "/v1/chat/completions": FIELDS,
    "/v1/completions": FIELDS,
    "/v1/embeddings": FIELDS,
    RESPONSES: RESPONSES_FIELDS,
}
"""Routes that make answers, and the fields that their bodies may have."""
NOT_OFFERED = {
    "/v1/batches": "Batches are not offered by vLLM's server",
    "/v1/files": "Batches are not offered by vLLM's server",
    "/v1/conversations": "Nothing is kept between two requests",
    "/v1/audio": "Only text is served here",
    "/v1/images": "Only text is served here",
    "/v1/fine_tuning": "Adapters are trained with `lorary train`",
    "/v1/moderations": "No moderation is served here",
}
"""Parts of OpenAI's API that callers may look for, and why they are not here."""
MODELS = "/v1/models"
PREFETCH = "/v1/adapters/prefetch"
FEEDBACK = "/v1/feedback"
FIRST_LOOK_SECONDS = 10.0
"""How long a server that starts waits for its registry before it takes requests all the same."""


class Gate:
    """ASGI middleware around vLLM's application."""

    def __init__(self, app: ASGIApp, replica: Replica | None = None) -> None:
        self.app = app
        self._replica = replica
        self._background: list[asyncio.Task[None]] = []

    @property
    def replica(self) -> Replica:
        """The process's replica, unless a test handed in another."""
        return self._replica or current()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; see the module's text."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._watching(send))
        elif scope["type"] == "http":
            noting = Noting(send)
            try:
                await self._serve(scope, receive, noting.send)
            except LoraryError as error:
                REFUSALS.labels(error.code).inc()
                journal.write(
                    "refused",
                    key=scope.get("lorary.key"),
                    path=scope["path"][:200],
                    status=error.status,
                    code=error.code,
                    reason=error.message[:300],
                )
                await refuse(send, error)
            except Exception as error:
                journal.failed("request", error)
                if noting.begun:
                    raise  # what was begun cannot be taken back: the connection breaks off
                REFUSALS.labels(Broken.code).inc()
                await refuse(send, Broken())
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _watching(self, send: Send) -> Send:
        """A `send` that begins to follow the registry once the engine runs, and ends with it."""

        async def send_watching(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                replica = self.replica
                # Whoever is answered finds a registry that was read, unless it cannot be reached.
                first_look = replica.follower.wait_for_first_look
                await asyncio.to_thread(first_look, FIRST_LOOK_SECONDS)
                warming = replica.warming
                seconds = replica.settings.poll_seconds
                self._background = [
                    asyncio.create_task(follow(warming, lambda: replica.catalog, seconds)),
                    asyncio.create_task(reconcile_regularly(replica.residency)),
                    asyncio.create_task(
                        watch(replica.flights, lambda: replica.catalog, seconds / 4)
                    ),
                    asyncio.create_task(replica.grammars.start()),
                ]
                for task in self._background:
                    task.add_done_callback(_tell_if_broken)
                replica.departure.listen()
            elif message["type"] == "lifespan.shutdown.complete":
                for task in self._background:
                    task.cancel()
                await self.replica.grammars.stop()
            await send(message)

        return send_watching

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        # The server sends no body after HEAD: load balancers and health checks ask so.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method == "POST" and path in GENERATION:
            await self._generate(scope, receive, send)
        elif method == "POST" and path == PREFETCH:
            await self._prefetch(scope, receive, send)
        elif method == "POST" and path == FEEDBACK:
            await self._take_feedback(scope, receive, send)
        elif method == "GET" and path == "/health":
            seen = {"method": method, DETAILS: self._may_see_details(scope)}
            await self.app({**inner(scope, path, b""), **seen}, receive, send)
        elif method == "GET" and path == "/metrics":
            _, key = await self._caller(scope)
            require_observe(key)
            await self.app({**inner(scope, path, b""), "method": method}, receive, send)
        elif method == "GET" and (path == MODELS or path.startswith(f"{MODELS}/")):
            await self._show_models(scope, send)
        else:
            why = next((NOT_OFFERED[p] for p in NOT_OFFERED if path.startswith(p)), "Not served")
            raise RouteNotFound(
                f"{method[:10]} {path[:100]!r}: {why}. Use /v1/chat/completions, /v1/completions, "
                "/v1/responses or /v1/models."
            )

    async def _generate(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.replica.departure.check()
        catalog, key = await self._caller(scope)
        settings = self.replica.settings
        if scope["path"] == "/v1/embeddings" and not routed(scope, "/v1/embeddings"):
            raise NotFound(
                f"The base model {settings.base_name!r} makes no embeddings. "
                "Use /v1/chat/completions or /v1/completions."
            )
        data = await read_body(receive, declared_length(scope), settings.max_body_bytes)
        body = parse_body(data, GENERATION[scope["path"]], settings.max_model_len)
        caller = sticky(scope, body.get("user"), key)
        asked = body["model"]
        catalog, (version,) = await self._resolve(catalog, key, [asked], caller)
        judged = None
        if version is not None:
            body["model"] = str(version.ref)
            wanted = flag(scope, b"x-lorary-confidence")
            abstains = catalog.domain(version.domain).policy.abstain
            if flag(scope, b"x-lorary-evaluate"):
                # Whoever judges a version must see what it would have said.
                require(key, "evaluate", version.domain)
                abstains = False
            judged = terms(scope["path"], body, version, wanted=wanted, abstains=abstains)

        def prepare(body: dict[str, Any]) -> tuple[str, Scope, bytes]:
            response_id = self.replica.response_ids.issue(scope["path"], version, key.id)
            if scope["path"] == RESPONSES:  # vLLM reads no header there
                body = {**body, "request_id": PREFIXES[RESPONSES] + response_id}
            data = msgspec.json.encode(body)
            length = (b"content-length", str(len(data)).encode())
            named = (b"x-request-id", response_id.encode())
            return response_id, inner(scope, scope["path"], b"", length, named), data

        name = f"{version.domain}/{version.adapter}" if version else settings.base_name
        seconds = allowed_seconds(scope, settings.request_seconds)
        async with AsyncExitStack() as held:
            grant = held.enter_context(self.replica.limits.admit(key.id, name))
            if wanted_grammars := grammars(body):
                await self.replica.grammars.check(key.id, wanted_grammars, sequences(body))
            watched = held.enter_context(self.replica.rollouts.watch(catalog, asked, version))
            flights = self.replica.flights
            flight = await held.enter_async_context(flights.follow(version, send, seconds))
            tier = None
            if version is not None:
                tier = await held.enter_async_context(self.replica.residency.hold(version))
                self.replica.catalog.resolve(version.ref)  # it may have been revoked meanwhile
            told = Judge(flight.send, judged).send if judged is not None else flight.send
            meter = Meter(watched.through(told), version, settings.base_name)
            try:
                listen = flight.receiver(receive)
                faults = self.replica.faults
                await faults.relay(self.app, prepare, body, version, listen, meter.send)
            finally:
                meter.end()
                grant.tokens = meter.tokens + meter.prompt_tokens
                watched.tokens = meter.tokens
                journal.write(
                    "request",
                    key=key.id,
                    model=str(version.ref) if version else settings.base_name,
                    path=scope["path"],
                    status=meter.status or None,
                    tier=tier,
                    seconds=round(meter.seconds, 4),
                    prompt_tokens=meter.prompt_tokens or None,
                    tokens=meter.tokens,
                )

    async def _take_feedback(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a caller's opinion about one of its answers kept."""
        _, key = await self._caller(scope)
        data = await read_body(receive, declared_length(scope), MAX_FEEDBACK_BYTES)
        replica = self.replica
        keep = replica.settings.feedback_comments
        with replica.limits.admit(key.id, FEEDBACK):
            body = json_object(data, FEEDBACK_FIELDS)
            kept = await give(replica.reports, replica.response_ids, key, body, keep_comment=keep)
        await answer(send, 200, kept)

    async def _prefetch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin to bring up what the caller will soon ask for; tells where it is now."""
        catalog, key = await self._caller(scope)
        data = await read_body(receive, declared_length(scope), MAX_HINT_BYTES)
        _, versions = await self._resolve(catalog, key, parse_hint(data))
        residency = self.replica.residency
        tiers = {str(v.ref): residency.tier(v) for v in versions if v is not None}
        for version in versions:
            if version is not None:
                self.replica.residency.prefetch(version)
        await answer(send, 202, {"adapters": tiers})

    async def _caller(self, scope: Scope) -> tuple[Catalog, Key]:
        """Who asks, by the newest catalog; raises `Unauthenticated`, once the registry was asked
        again: the key may just have been issued."""
        presented = bearer(header(scope, b"authorization"))
        catalog = self.replica.catalog
        try:
            key = authenticate(catalog, presented, utc_now())
        except Unauthenticated:
            catalog = await self.replica.look_again()
            key = authenticate(catalog, presented, utc_now())
        scope["lorary.key"] = key.id
        return catalog, key

    def _may_see_details(self, scope: Scope) -> bool:
        """Whether a caller of /health may see other domains' names; a load balancer has no key."""
        try:
            presented = bearer(header(scope, b"authorization"))
            key = authenticate(self.replica.catalog, presented, utc_now())
        except LoraryError:
            return False
        return may_observe(key)

    async def _resolve(
        self, catalog: Catalog, key: Key, models: Sequence[str], caller: str = ""
    ) -> tuple[Catalog, list[Version | None]]:
        """What `models` name now, if `key` may use them, and the catalog that says so.

        What is not found in `catalog` may just have been published or named, so the registry is
        asked again, once, before it is refused.
        """
        try:
            return catalog, [self._find(catalog, key, model, caller) for model in models]
        except NotFound:
            catalog = await self.replica.look_again()
            return catalog, [self._find(catalog, key, model, caller) for model in models]

    def _find(self, catalog: Catalog, key: Key, model: str, caller: str) -> Version | None:
        """The version that `model` names now, if `key` may use it; None for the base model."""
        if model == self.replica.settings.base_name:
            if not any(grant.role == "infer" for grant in key.grants):
                raise Forbidden(f"Key {key.id} may not infer. Ask an operator for the role.")
            return None
        ref = AdapterRef.parse(model)
        # Before looking, so that what exists in other domains does not show.
        require(key, "infer", ref.domain)
        try:
            version = self.replica.warming.resolve(catalog, ref, caller)
        except UnknownAdapter as error:
            near = [p for p in error.near if may_see(key, p.partition("/")[0])]
            raise UnknownAdapter(ref.path, near) from None
        self.replica.check_base(version)
        return version

    async def _show_models(self, scope: Scope, send: Send) -> None:
        catalog, key = await self._caller(scope)
        settings = self.replica.settings
        base = Base(settings.base_name, settings.max_model_len)
        name = scope["path"][len(MODELS) + 1 :]
        if not name:
            await answer(send, 200, await asyncio.to_thread(encoded, catalog, key, base))
        else:
            _, (version,) = await self._resolve(catalog, key, [name])
            await answer(send, 200, named(name, version, base))


def _tell_if_broken(task: asyncio.Task[None]) -> None:
    """Nobody waits for a background task, so its failure is told here."""
    if not task.cancelled() and (error := task.exception()) is not None:
        journal.failed(task.get_name(), error)
