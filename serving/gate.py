"""The gate: the outermost layer of vLLM's API process.

Every request is authenticated, resolved, authorised and admitted here, and reaches vLLM under the
name of one pinned version, or does not reach it. What is not on the list of routes does not exist.
Answers pass through as they come, with the version that gave them in the headers.

Extension point: `--middleware serving.gate.Gate`, a pure ASGI class.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import LoraryError
from registry.model.access import require_observe
from serving import batch_api, batch_lines
from serving.counting import COUNT_TOKENS, count_tokens
from serving.errors import Broken, CallerLeft, RouteNotFound
from serving.generation import admitted, generate
from serving.inflight import watch
from serving.outcomes.feedback import FEEDBACK_FIELDS, MAX_FEEDBACK_BYTES, give
from serving.replica import Replica, current
from serving.request.answers import Noting, answer, refuse
from serving.request.body import MAX_HINT_BYTES, json_object, parse_hint
from serving.request.headers import DETAILS, declared_length, inner
from serving.request.listing import Base, encoded, named
from serving.request.routes import ROUTES
from serving.request.trace import trace_id
from serving.resolve import identify, is_observer, resolve
from serving.shadow import report_last, report_regularly
from serving.telemetry import access_log
from serving.telemetry.metrics import REFUSALS
from serving.tiers.residency import reconcile_regularly
from serving.tiers.warming import follow

NOT_OFFERED = {
    "/v1/batches": "Batches are off here: the operator sets LORARY_DEPLOYMENT",
    "/v1/files": "Files are off here: the operator sets LORARY_DEPLOYMENT",
    "/v1/messages/batches": "Batches are served as /v1/batches",
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
            await self.app(scope, receive, self._watching(scope, send))
        elif scope["type"] == "http":
            noting = Noting(scope, send)
            try:
                await self._serve(scope, receive, noting.send)
            except CallerLeft as error:
                access_log.write(
                    "left",
                    key=scope.get("lorary.key"),
                    path=scope["path"],
                    code=error.code,
                    trace=trace_id(scope),
                )
            except LoraryError as error:
                REFUSALS.labels(error.code).inc()
                access_log.write(
                    "refused",
                    key=scope.get("lorary.key"),
                    path=scope["path"][:200],
                    status=error.status,
                    code=error.code,
                    request=noting.request_id.decode(),
                    reason=error.detail[:600],
                    trace=trace_id(scope),
                )
                if noting.begun:
                    raise
                await refuse(noting.send, error, scope["path"])
            except Exception as error:
                access_log.failed("request", error)
                if noting.begun:
                    raise  # what was begun cannot be taken back: the connection breaks off
                REFUSALS.labels(Broken.code).inc()
                await refuse(noting.send, Broken(), scope["path"])
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _watching(self, scope: Scope, send: Send) -> Send:
        """A `send` that begins to follow the registry once the engine runs, and ends with it."""

        async def send_watching(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                replica = self.replica
                # Whoever is answered finds a registry that was read, unless it cannot be reached.
                first_look = replica.follower.wait_for_first_look
                await asyncio.to_thread(first_look, FIRST_LOOK_SECONDS)
                warming, settings = replica.warming, replica.settings
                seconds = settings.poll_seconds
                self._background = [
                    asyncio.create_task(follow(warming, lambda: replica.catalog, seconds)),
                    asyncio.create_task(
                        reconcile_regularly(replica.residency, settings.reconcile_seconds)
                    ),
                    asyncio.create_task(
                        watch(replica.inflight, lambda: replica.catalog, seconds / 4)
                    ),
                    asyncio.create_task(report_regularly(replica.shadows.totals)),
                    asyncio.create_task(replica.grammars.start()),
                ]
                if replica.batches is not None:
                    lines = batch_lines.GatewayLines(self, scope.get("app"))
                    work = batch_lines.worker(replica, replica.batches, lines).run()
                    self._background.append(asyncio.create_task(work))
                for task in self._background:
                    task.add_done_callback(_tell_if_broken)
                replica.shutdown.listen()
            elif message["type"] == "lifespan.shutdown.complete":
                for task in self._background:
                    task.cancel()
                await self.replica.grammars.stop()
                await report_last(self.replica.shadows.totals)
            await send(message)

        return send_watching

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        # The server sends no body after HEAD: load balancers and health checks ask so.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if method == "POST" and path in ROUTES:
            await generate(self.replica, self.app, scope, receive, send)
        elif method == "POST" and path == PREFETCH:
            await self._prefetch(scope, receive, send)
        elif method == "POST" and path == COUNT_TOKENS:
            await count_tokens(self.replica, self.app, scope, receive, send)
        elif method == "POST" and path == FEEDBACK:
            await self._take_feedback(scope, receive, send)
        elif path.startswith(batch_api.ROUTES) and self.replica.batches is not None:
            await batch_api.serve(self.replica, self.replica.batches, scope, receive, send)
        elif method == "GET" and path == "/health":
            seen = {"method": method, DETAILS: is_observer(self.replica, scope)}
            await self.app({**inner(scope, path, b""), **seen}, receive, send)
        elif method == "GET" and path == "/metrics":
            if not self.replica.settings.open_metrics:
                _, key = await identify(self.replica, scope)
                require_observe(key)
            await self.app({**inner(scope, path, b""), "method": method}, receive, send)
        elif method == "GET" and (path == MODELS or path.startswith(f"{MODELS}/")):
            await self._show_models(scope, send)
        else:
            why = next((NOT_OFFERED[p] for p in NOT_OFFERED if path.startswith(p)), "Not served")
            raise RouteNotFound(
                f"{method[:10]} {path[:100]!r}: {why}. Use /v1/chat/completions, /v1/completions, "
                "/v1/responses, /v1/messages or /v1/models; on a server that classifies /classify, "
                "/score or /rerank."
            )

    async def _take_feedback(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a caller's rating of one of its answers kept."""
        _, key = await identify(self.replica, scope)
        replica = self.replica
        async with admitted(replica, scope, key, receive, send) as (exchange, _):
            data = await exchange.read(declared_length(scope), MAX_FEEDBACK_BYTES)
            body = json_object(data, FEEDBACK_FIELDS)
            kept = await give(replica.reports, replica.response_ids, key, body)
            await answer(exchange.send, 200, kept)

    async def _prefetch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start loading what the caller will soon request; returns where it is now.

        Each hint is charged as a request.
        """
        catalog, key = await identify(self.replica, scope)
        async with admitted(self.replica, scope, key, receive, send) as (exchange, grant):
            data = await exchange.read(declared_length(scope), MAX_HINT_BYTES)
            found = await resolve(self.replica, catalog, key, parse_hint(data))
            versions = [one.version for one in found if one.version is not None]
            grant.charge(max(1, len(versions)))
            tiers = {str(v.ref): self.replica.residency.tier(v) for v in versions}
            self.replica.hints.add(key.id, (v for v in versions if tiers[str(v.ref)] != "engine"))
            await answer(exchange.send, 202, {"adapters": tiers})

    async def _show_models(self, scope: Scope, send: Send) -> None:
        catalog, key = await identify(self.replica, scope)
        settings = self.replica.settings
        base = Base(
            settings.base_name,
            settings.max_model_len,
            self.replica.identity,
            self.replica.served.can,
        )
        name = scope["path"][len(MODELS) + 1 :]
        if not name:
            await answer(send, 200, await asyncio.to_thread(encoded, catalog, key, base))
        else:
            (found,) = await resolve(self.replica, catalog, key, [name])
            await answer(send, 200, named(name, found.version, base))


def _tell_if_broken(task: asyncio.Task[None]) -> None:
    """A background task has no caller to report to, so its failure is logged here."""
    if not task.cancelled() and (error := task.exception()) is not None:
        access_log.failed(task.get_name(), error)
