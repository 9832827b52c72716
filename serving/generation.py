"""One request for an answer: bounded, resolved, charged, placed, relayed.

Each step holds what it took until the request has ended, however it ends.
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
    ACTING,
    allowed_seconds,
    declared_length,
    flag,
    inner,
    routed,
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

LATER = 1 << 20
"""What is added to the priority of a batch's line: it goes after every other request."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request whose `model` is resolved."""

    replica: Replica
    route: Route
    scope: Scope
    key: Key
    found: Resolution
    body: dict[str, Any]
    """The body, changed on its way to what vLLM gets."""
    size: int
    """Bytes of the body as it came."""
    sequences: int
    """Prompts times choices."""

    @property
    def model(self) -> str:
        """The adapter, or the base model, that answers."""
        version = self.found.version
        if version is None:
            return self.replica.settings.base_name
        return f"{version.domain}/{version.adapter}"

    @property
    def chooses_rank(self) -> bool:
        """Whether the data-parallel rank that answers is chosen here."""
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
    """The scope of one request: admitted before its body is read, ended when its caller disconnects
    or its time is over, and then everything is given back."""
    seconds = allowed_seconds(scope, seconds)
    with replica.limits.admit(key.id) as grant:
        async with replica.inflight.follow(receive, send, seconds, scope["path"]) as exchange:
            yield exchange, grant


async def generate(
    replica: Replica, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    """Have `app`, which is vLLM, answer a request of one of the `ROUTES`."""
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
        (found,) = await resolve(replica, catalog, key, [body["model"]], caller)
        asked = Asked(replica, route, scope, key, found, body, len(data), sequences(body))
        exchange.version = found.version
        app = _around(asked, app)
        tokens = route.most_tokens(body, len(data), settings.max_model_len)
        grant.claim(asked.model, sequences=asked.sequences, tokens=tokens)
        await _check_grammars(asked)
        watched = held.enter_context(
            replica.rollouts.watch(found.catalog, found.ref, found.version)
        )
        judged = _terms_of(asked)
        usage = Usage(
            Shown() if route.reports_usage else ask_for_usage(body),
            n=body.get("n", 1),
            sequences=asked.sequences,
        )
        rank, tier = await _place(asked, held)
        relay = watched.outcome = Relay(
            exchange,
            found.version,
            settings.base_name,
            usage,
            route=route,
            judge=Judge(judged) if judged is not None else None,
            engine=replica.identity,
        )
        if found.shadow is not None and found.version is not None:
            watch = _watched(asked, found.shadow, found.version, exchange)
            app = held.enter_context(watch).through(app)
        grant.tokens = None  # from here on the engine may spend the reserve
        try:
            prepared = functools.partial(_prepare, asked, found.version, watched.split, rank)
            await replica.faults.relay(app, prepared, body, exchange, relay)
        finally:
            relay.end()
            failed = exchange.reason is None and not relay.status
            grant.tokens = 0 if failed else relay.charge
            access_log.write(
                "request",
                key=key.id,
                model=str(found.version.ref) if found.version else settings.base_name,
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
    if not routed(scope, path, usual=path != EMBEDDINGS):
        made = "no embeddings" if path == EMBEDDINGS else "embeddings alone, no text"
        raise NotFound(
            f"The base model {replica.settings.base_name!r} makes {made}. Use "
            f"{f'{CHAT} or {COMPLETIONS}' if path == EMBEDDINGS else EMBEDDINGS}."
        )
    return route


def _around(asked: Asked, app: ASGIApp) -> ASGIApp:
    """vLLM with what stands before it on the route."""
    route, finish = asked.route, asked.route.finish
    if route.classifies:
        base = asked.replica.settings.base_name
        head = classification.head_at(route.path, asked.found.version, base)
        finish = functools.partial(classification.finish, route.path, head)
    return app if finish is None else Pooled(app, finish)


async def _check_grammars(asked: Asked) -> None:
    shaping = asked.route.constraints(asked.body)
    if not (wanted := grammars(shaping)):
        return
    try:
        await asked.replica.grammars.check(asked.key.id, wanted, asked.sequences)
    except RefusedGrammar as error:
        error.param = field(shaping)
        raise


def _terms_of(asked: Asked) -> Terms | None:
    """On what terms the answer's confidence is judged; None if it is not."""
    version, replica = asked.found.version, asked.replica
    if version is None:
        return None
    wanted = flag(asked.scope, b"x-lorary-confidence")
    abstains = asked.found.catalog.domain(version.domain).policy.abstain
    if flag(asked.scope, b"x-lorary-evaluate"):
        # Whoever judges a version must see what it would have answered.
        require(asked.key, "evaluate", version.domain)
        abstains = False
    return terms(
        asked.route.path,
        asked.body,
        version,
        wanted=wanted,
        abstains=abstains,
        keys=asked.found.catalog.keys,
        engine=replica.identity,
        controls=replica.controls,
    )


async def _place(asked: Asked, held: AsyncExitStack) -> tuple[int | None, Tier | None]:
    """Hold the request's places in the engine's batch and its version in the engine as long as
    `held`: the rank that answers, and where the version was before."""
    replica, body, version = asked.replica, asked.body, asked.found.version
    body["cache_salt"] = replica.salts.salt(asked.found.catalog, version, asked.key)
    later = ACTING in asked.scope
    share = replica.shares.take(BATCHES if later else asked.key.id, asked.sequences)
    body["priority"] = await held.enter_async_context(share) + (LATER if later else 0)
    rank = held.enter_context(_ranked(asked))
    tier = None
    if version is not None:
        body["model"] = str(version.ref)
        tier = await _bring(asked, held, version, rank)
        replica.catalog.resolve(version.ref)  # it may have been revoked meanwhile
    if later:
        held.enter_context(replica.running_later())
    return rank, tier


@contextmanager
def _ranked(asked: Asked) -> Iterator[int | None]:
    """The data-parallel rank that answers; None if there is one only, or if vLLM chooses."""
    version = asked.found.version
    named = str(version.ref) if version and asked.chooses_rank else None
    with asked.replica.ranks.place(named, asked.sequences) as rank:
        yield rank if asked.chooses_rank else None


async def _bring(asked: Asked, held: AsyncExitStack, version: Version, rank: int | None) -> Tier:
    """Hold the version in the engine as long as `held`; where it was before."""
    residency = asked.replica.residency
    if residency.tier(version) == "engine":
        return await held.enter_async_context(residency.hold(version, rank))
    async with asked.replica.cold_loads.enter(asked.key.id, version):
        return await held.enter_async_context(residency.hold(version, rank))


def _watched(asked: Asked, shadow: Shadow, version: Version, exchange: Exchange) -> Watch:
    """What has the request answered by the shadow's candidate, too."""
    replica = asked.replica
    candidate = replica.catalog.find(replace(version.ref, version=shadow.candidate))
    rank = replica.ranks.home(str(candidate.ref)) if asked.chooses_rank else None
    prepare = functools.partial(_prepare, asked, candidate, None, rank)
    return replica.shadows.watch(
        shadow, candidate, exchange, asked.scope, asked.body, asked.size, prepare, rank
    )


def _prepare(
    asked: Asked,
    version: Version | None,
    split: tuple[str, int] | None,
    rank: int | None,
    body: dict[str, Any],
) -> tuple[str, Scope, bytes]:
    """A request as vLLM gets it: its new id, the scope, and the bytes of its body."""
    path = asked.route.path
    response_id = asked.replica.response_ids.issue(path, version, asked.key.id, split)
    headers = [(b"x-request-id", response_id.encode())]
    if path == RESPONSES:  # vLLM reads no header there
        body = {**body, "request_id": asked.route.id_prefix + response_id}
    elif path == MESSAGES:  # and no priority of the body here
        headers.append((b"x-vllm-priority", str(body["priority"]).encode()))
        body = {name: value for name, value in body.items() if name != "priority"}
    data = msgspec.json.encode(body)
    headers.append((b"content-length", str(len(data)).encode()))
    if rank is not None:
        headers.append((b"x-data-parallel-rank", str(rank).encode()))
    return response_id, inner(asked.scope, path, b"", *headers), data
