"""The gate: the outermost layer of vLLM's API process.

Every request is authenticated, resolved, authorised and admitted here, and reaches vLLM under the
name of one pinned version, or does not reach it. What is not on the list of routes does not exist.
Answers pass through as they come, with the version that gave them in the headers.

Extension point: `--middleware serving.gate.Gate`, a pure ASGI class.
"""

import asyncio
import functools
from collections.abc import Sequence
from contextlib import AsyncExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import LoraryError
from adapters.names import AdapterRef
from registry.errors import Forbidden, NotFound, Unauthenticated, UnknownAdapter
from registry.model.access import (
    authenticate,
    bearer,
    may_observe,
    may_see,
    require,
    require_observe,
)
from registry.model.catalog import Catalog, Key, Version
from registry.times import utc_now
from serving.errors import Broken, CallerLeft, RouteNotFound
from serving.exchange import RESPONSES, bring, exchange, prepare, terms_of
from serving.grammars.gatekeeper import RefusedGrammar
from serving.grammars.wanted import field, grammars
from serving.outcomes.feedback import FEEDBACK_FIELDS, MAX_FEEDBACK_BYTES, give
from serving.replica import Replica, current
from serving.request.answers import Noting, answer, refuse
from serving.request.body import (
    MAX_HINT_BYTES,
    check_seed,
    json_object,
    parse_body,
    parse_hint,
    sequences,
)
from serving.request.charges import most_tokens
from serving.request.confidence import Judge
from serving.request.fields import FIELDS, RESPONSES_FIELDS
from serving.request.flights import watch
from serving.request.listing import Base, encoded, named
from serving.request.scopes import (
    DETAILS,
    declared_length,
    header,
    inner,
    routed,
    sticky,
)
from serving.telemetry import journal
from serving.telemetry.metering import Meter, Shown, ask_for_usage
from serving.telemetry.metrics import REFUSALS
from serving.tiers.residency import reconcile_regularly
from serving.tiers.warming import follow

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
            except CallerLeft as error:
                journal.write(
                    "left", key=scope.get("lorary.key"), path=scope["path"], code=error.code
                )
            except LoraryError as error:
                REFUSALS.labels(error.code).inc()
                journal.write(
                    "refused",
                    key=scope.get("lorary.key"),
                    path=scope["path"][:200],
                    status=error.status,
                    code=error.code,
                    reason=error.detail[:600],
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
        async with AsyncExitStack() as held:
            flight, grant = await held.enter_async_context(
                exchange(self.replica, scope, key, receive, send, settings.request_seconds)
            )
            data = await flight.read(declared_length(scope), settings.max_body_bytes)
            body = parse_body(data, GENERATION[scope["path"]], settings.max_model_len)
            if self.replica.on_cpu:
                check_seed(body)
            asked, count = body["model"], body.get("n", 1)
            caller = sticky(scope, body.get("user"), key)
            catalog, (version,) = await self._resolve(catalog, key, [asked], caller)
            name = f"{version.domain}/{version.adapter}" if version else settings.base_name
            reserve = most_tokens(body, len(data), settings.max_model_len)
            grant.claim(name, sequences=sequences(body), tokens=reserve)
            flight.version = version
            if wanted := grammars(body):
                try:
                    await self.replica.grammars.check(key.id, wanted, sequences(body))
                except RefusedGrammar as error:
                    error.param = field(body)
                    raise
            watched = held.enter_context(self.replica.rollouts.watch(catalog, asked, version))
            judged = terms_of(self.replica, scope, catalog, key, body, version)
            shown = Shown() if scope["path"] == RESPONSES else ask_for_usage(body)
            body["cache_salt"] = self.replica.salts.salt(catalog, version, key)
            place = self.replica.shares.take(key.id, sequences(body))
            body["priority"] = await held.enter_async_context(place)
            tier = None
            if version is not None:
                body["model"] = str(version.ref)
                tier = await bring(self.replica, held, key, version)
                self.replica.catalog.resolve(version.ref)  # it may have been revoked meanwhile
            told = Judge(flight.send, judged).send if judged is not None else flight.send
            meter = Meter(
                watched.through(told),
                version,
                settings.base_name,
                shown,
                count,
                engine=self.replica.identity,
            )
            grant.tokens = None  # from here on the engine may spend the reserve
            try:
                made = functools.partial(prepare, self.replica, scope, key, version, watched.split)
                await self.replica.faults.relay(self.app, made, body, flight, meter.send)
            finally:
                meter.end()
                failed = flight.reason is None and not meter.status
                grant.tokens = 0 if failed else meter.charge
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
        replica = self.replica
        async with exchange(self.replica, scope, key, receive, send) as (flight, _):
            data = await flight.read(declared_length(scope), MAX_FEEDBACK_BYTES)
            body = json_object(data, FEEDBACK_FIELDS)
            kept = await give(replica.reports, replica.response_ids, key, body)
            await answer(flight.send, 200, kept)

    async def _prefetch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin to bring up what the caller will soon ask for; tells where it is now.

        Each hint is charged as a request.
        """
        catalog, key = await self._caller(scope)
        async with exchange(self.replica, scope, key, receive, send) as (flight, grant):
            data = await flight.read(declared_length(scope), MAX_HINT_BYTES)
            _, named = await self._resolve(catalog, key, parse_hint(data))
            versions = [version for version in named if version is not None]
            grant.charge(max(1, len(versions)))
            tiers = {str(v.ref): self.replica.residency.tier(v) for v in versions}
            self.replica.hints.add(key.id, (v for v in versions if tiers[str(v.ref)] != "engine"))
            await answer(flight.send, 202, {"adapters": tiers})

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
        base = Base(settings.base_name, settings.max_model_len, self.replica.identity)
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
