"""Generates the answer to one request: bounded, resolved, charged, placed in the engine, relayed.

Each step keeps what it took, such as a share of the batch or the adapter's slot, until the request
has ended, whether with an answer, an error or a disconnect.
"""

import functools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.errors import NotFound
from registry.model.access import require
from registry.model.catalog import Key, Version
from registry.model.comparisons import Shadow
from serving.errors import RouteNotFound
from serving.grammars.gatekeeper import RefusedGrammar
from serving.grammars.wanted import field, grammars
from serving.inflight import Exchange
from serving.relay import Relay
from serving.replica import Replica
from serving.request import classification
from serving.request.body import check_seed, parse_body, sequences
from serving.request.confidence import Judge, Terms, terms
from serving.request.envelopes import MESSAGES
from serving.request.headers import (
    BATCH_KEY,
    allowed_seconds,
    declared_length,
    flag,
    has_route,
    inner,
    sticky,
)
from serving.request.limits import Grant
from serving.request.pooling import Pooled
from serving.request.routes import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, ROUTES, Route
from serving.request.trace import trace_id
from serving.request.usage import Shown, Usage, ask_for_usage
from serving.resolve import Resolution, identify, resolve
from serving.shadow_copies import Watch
from serving.telemetry import access_log
from serving.tiers.residency import Tier
from serving.tiers.shares import BATCHES

BATCH_PRIORITY = 1 << 20
"""Added to the priority of a batch's line. vLLM takes the lowest first, so lines go last."""


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """A request whose `model` is resolved, with what later steps read of it."""

    replica: Replica
    route: Route
    scope: Scope
    key: Key
    resolution: Resolution
    """What `model` names: the version and its shadow, by the catalog that says so."""
    body: dict[str, Any]
    """The parsed body. Steps change it in place; what they leave is sent to vLLM."""
    size: int
    """Bytes of the body as the caller sent it."""
    sequences: int
    """How many sequences the engine generates: prompts times choices."""

    @property
    def model(self) -> str:
        """What answers: `DOMAIN/ADAPTER`, or the name of the base model."""
        version = self.resolution.version
        if version is None:
            return self.replica.settings.base_name
        return f"{version.domain}/{version.adapter}"

    @property
    def chooses_rank(self) -> bool:
        """Whether the gateway chooses the data-parallel rank that answers, not vLLM."""
        return self.route.takes_rank and len(self.replica.ranks) > 1


@asynccontextmanager
async def admitted(
    replica: Replica,
    scope: Scope,
    key: Key,
    receive: Receive,
    send: Send,
    seconds: float | None = None,
) -> AsyncIterator[tuple[Exchange, Grant]]:
    """Admit a request, before its body is read, for as long as the context lasts.

    seconds: how long it may take at most; None for no limit. `X-Lorary-Timeout` may ask for less.
    Yields the request, which ends when its caller disconnects or its time is over, and what it is
    charged. Raises `LimitReached`, `BadRequest` for a malformed header, and why the request ended.
    """
    seconds = allowed_seconds(scope, seconds)
    with replica.limits.admit(key.id) as grant:
        async with replica.inflight.follow(receive, send, seconds, scope["path"]) as exchange:
            yield exchange, grant


async def generate(
    replica: Replica, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Have `app`, which is vLLM, answer a request of one of the `ROUTES`, and relay the answer.

    Raises any `LoraryError` that refuses or ends the request before part of its answer was sent;
    a stream that has begun gets it as its last event.
    """
    replica.shutdown.check()
    catalog, key = await identify(replica, scope)
    settings, route = replica.settings, _route(replica, scope)
    async with AsyncExitStack() as held:
        exchange, grant = await held.enter_async_context(
            admitted(replica, scope, key, receive, send, settings.request_seconds)
        )
        data = await exchange.read(declared_length(scope), settings.max_body_bytes)
        body = parse_body(data, route.fields, settings.max_model_len)
        if replica.on_cpu:
            check_seed(body)
        caller = sticky(scope, route.user(body), key)
        (resolution,) = await resolve(replica, catalog, key, [body["model"]], caller)
        request = ResolvedRequest(
            replica, route, scope, key, resolution, body, len(data), sequences(body)
        )
        exchange.version = resolution.version
        app = _with_pooling(request, app)
        tokens = route.most_tokens(body, len(data), settings.max_model_len)
        grant.claim(request.model, sequences=request.sequences, tokens=tokens)
        await _check_grammars(request)
        split_watch = held.enter_context(
            replica.rollouts.watch(resolution.catalog, resolution.ref, resolution.version)
        )
        wanted_terms = _confidence_terms(request)
        usage = Usage(
            Shown() if route.reports_usage else ask_for_usage(body),
            n=body.get("n", 1),
            sequences=request.sequences,
        )
        rank, tier = await _place(request, held)
        relay = split_watch.outcome = Relay(
            exchange,
            resolution.version,
            settings.base_name,
            usage,
            route=route,
            judge=Judge(wanted_terms) if wanted_terms is not None else None,
            engine=replica.identity,
        )
        if resolution.shadow is not None and resolution.version is not None:
            watch = _shadow_watch(request, resolution.shadow, resolution.version, exchange)
            app = held.enter_context(watch).through(app)
        grant.tokens = None  # from here on the engine may spend the reserve
        try:
            prepared = functools.partial(
                _prepare_for_vllm, request, resolution.version, split_watch.split, rank
            )
            await replica.faults.relay(app, prepared, body, exchange, relay)
        finally:
            relay.end()
            failed = exchange.reason is None and not relay.status
            grant.tokens = 0 if failed else relay.charge
            access_log.write(
                "request",
                key=key.id,
                model=str(resolution.version.ref) if resolution.version else settings.base_name,
                path=route.path,
                status=relay.status or None,
                tier=tier,
                rank=rank,
                seconds=round(relay.seconds, 4),
                prompt_tokens=usage.prompt_tokens or None,
                tokens=usage.tokens,
                trace=trace_id(scope),
            )


def _route(replica: Replica, scope: Scope) -> Route:
    """The route that was asked for; raises `RouteNotFound` or `NotFound` where this server or its
    base model has none."""
    path = scope["path"]
    route = ROUTES[path]
    if route.classifies != replica.served.classifies:
        others = ", ".join(r.path for r in ROUTES.values() if r.classifies != route.classifies)
        raise RouteNotFound(f"POST {path!r}: {replica.served.doing} Use {others}.")
    if not has_route(scope, path, default=path != EMBEDDINGS):
        made = "no embeddings" if path == EMBEDDINGS else "embeddings alone, no text"
        raise NotFound(
            f"The base model {replica.settings.base_name!r} makes {made}. Use "
            f"{f'{CHAT} or {COMPLETIONS}' if path == EMBEDDINGS else EMBEDDINGS}."
        )
    return route


def _with_pooling(request: ResolvedRequest, app: ASGIApp) -> ASGIApp:
    """`app`, its pooled answers turned into what callers get, where the route has such answers."""
    route, finish = request.route, request.route.finish
    if route.classifies:
        base = request.replica.settings.base_name
        head = classification.head_at(route.path, request.resolution.version, base)
        finish = functools.partial(classification.finish, route.path, head)
    return app if finish is None else Pooled(app, finish)


async def _check_grammars(request: ResolvedRequest) -> None:
    constraints = request.route.constraints(request.body)
    if not (wanted := grammars(constraints)):
        return
    try:
        await request.replica.grammars.check(request.key.id, wanted, request.sequences)
    except RefusedGrammar as error:
        error.param = field(constraints)
        raise


def _confidence_terms(request: ResolvedRequest) -> Terms | None:
    """How to judge the answer's confidence; None if neither the caller nor the domain asks for it.

    Raises `Forbidden` for a header that takes the role evaluate, and `BadRequest` as `terms`.
    """
    version, replica = request.resolution.version, request.replica
    if version is None:
        return None
    wanted = flag(request.scope, b"x-lorary-confidence")
    abstains = request.resolution.catalog.domain(version.domain).policy.abstain
    if flag(request.scope, b"x-lorary-evaluate"):
        # An evaluation needs the answers that callers would not get.
        require(request.key, "evaluate", version.domain)
        abstains = False
    return terms(
        request.route.path,
        request.body,
        version,
        wanted=wanted,
        abstains=abstains,
        keys=request.resolution.catalog.keys,
        engine=replica.identity,
        controls=replica.controls,
    )


async def _place(request: ResolvedRequest, held: AsyncExitStack) -> tuple[int | None, Tier | None]:
    """Hold the request's places in the engine's batch, and its version in the engine, until `held`
    is closed. Completes the body: salt, priority, and the pinned name as `model`.

    Returns the rank that answers, as `_chosen_rank` says, and where the version was before; None
    for the base model.
    """
    replica, body, version = request.replica, request.body, request.resolution.version
    body["cache_salt"] = replica.salts.salt(request.resolution.catalog, version, request.key)
    is_batch_line = BATCH_KEY in request.scope
    share = replica.shares.take(BATCHES if is_batch_line else request.key.id, request.sequences)
    lowered = BATCH_PRIORITY if is_batch_line else 0
    body["priority"] = await held.enter_async_context(share) + lowered
    rank = held.enter_context(_chosen_rank(request))
    tier = None
    if version is not None:
        body["model"] = str(version.ref)
        tier = await _hold_version(request, held, version, rank)
        replica.catalog.resolve(version.ref)  # it may have been revoked meanwhile
    if is_batch_line:
        held.enter_context(replica.running_batch_line())
    return rank, tier


@contextmanager
def _chosen_rank(request: ResolvedRequest) -> Iterator[int | None]:
    """The data-parallel rank that answers; None if there is one only, or if vLLM chooses."""
    version = request.resolution.version
    named = str(version.ref) if version and request.chooses_rank else None
    with request.replica.ranks.place(named, request.sequences) as rank:
        yield rank if request.chooses_rank else None


async def _hold_version(
    request: ResolvedRequest, held: AsyncExitStack, version: Version, rank: int | None
) -> Tier:
    """Hold the version in the engine until `held` is closed; returns where it was before.

    A version that is not in the engine counts among its key's cold loads meanwhile.
    """
    residency = request.replica.residency
    if residency.tier(version) == "engine":
        return await held.enter_async_context(residency.hold(version, rank))
    async with request.replica.cold_loads.enter(request.key.id, version):
        return await held.enter_async_context(residency.hold(version, rank))


def _shadow_watch(
    request: ResolvedRequest, shadow: Shadow, version: Version, exchange: Exchange
) -> Watch:
    """What records the caller's answer and then has the shadow's candidate answer, too."""
    replica = request.replica
    candidate = replica.catalog.find(replace(version.ref, version=shadow.candidate))
    rank = replica.ranks.home(str(candidate.ref)) if request.chooses_rank else None
    prepare = functools.partial(_prepare_for_vllm, request, candidate, None, rank)
    return replica.shadows.watch(
        shadow, candidate, exchange, request.scope, request.body, request.size, prepare, rank
    )


def _prepare_for_vllm(
    request: ResolvedRequest,
    version: Version | None,
    split: tuple[str, int] | None,
    rank: int | None,
    body: dict[str, Any],
) -> tuple[str, Scope, bytes]:
    """A request as vLLM gets it: its new id, the scope, and the bytes of its body.

    split: the alias and the number of the canary that chose `version`; None if none did. rank: the
    data-parallel rank to send it to; None if vLLM chooses.
    """
    path = request.route.path
    response_id = request.replica.response_ids.issue(path, version, request.key.id, split)
    headers = [(b"x-request-id", response_id.encode())]
    if path == RESPONSES:  # vLLM reads no header there
        body = {**body, "request_id": request.route.id_prefix + response_id}
    elif path == MESSAGES:  # and no priority of the body here
        headers.append((b"x-vllm-priority", str(body["priority"]).encode()))
        body = {name: value for name, value in body.items() if name != "priority"}
    data = msgspec.json.encode(body)
    headers.append((b"content-length", str(len(data)).encode()))
    if rank is not None:
        headers.append((b"x-data-parallel-rank", str(rank).encode()))
    return response_id, inner(request.scope, path, b"", *headers), data
