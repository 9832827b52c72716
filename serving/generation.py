"""One request for an answer: bounded, resolved, charged, placed, relayed.

Each step holds what it took until the request has ended, however it ends.
"""

import functools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
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
from serving.outcomes.response_ids import PREFIXES
from serving.relay import Relay
from serving.replica import Replica
from serving.request import classification
from serving.request.body import check_seed, parse_body, sequences
from serving.request.bounds import Bound
from serving.request.charges import most_tokens
from serving.request.confidence import Judge, Terms, terms
from serving.request.embeddings import Embedded
from serving.request.envelopes import MESSAGES
from serving.request.fields import FIELDS, RESPONSES_FIELDS
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
from serving.request.messages import MESSAGES_FIELDS, constraints
from serving.request.trace import trace_id
from serving.resolve import Resolution, identify, resolve
from serving.shadow_copies import Watch
from serving.telemetry import access_log
from serving.tiers.ranks import Ranks
from serving.tiers.residency import Tier
from serving.tiers.shares import BATCHES
from serving.usage import Shown, Usage, ask_for_usage

RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
WRITING: Mapping[str, Mapping[str, Bound]] = {
    "/v1/chat/completions": FIELDS,
    "/v1/completions": FIELDS,
    EMBEDDINGS: FIELDS,
    RESPONSES: RESPONSES_FIELDS,
    MESSAGES: MESSAGES_FIELDS,
}
"""Routes of a server that writes, and the fields that their bodies may have."""
ROUTES = {**WRITING, **classification.ROUTES}
"""Routes that make answers, on servers of either task."""
REPORTING = (RESPONSES, MESSAGES)
"""Routes whose streams report their usage at the end without being asked."""
LATER = 1 << 20
"""What is added to the priority of a batch's line: it goes after every other request."""
RANKED = ("/v1/chat/completions", "/v1/completions", MESSAGES)
"""Routes on which vLLM sends a request to the data-parallel rank that a header names; on the others
it chooses one itself."""


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
    settings, path = replica.settings, scope["path"]
    routes = classification.ROUTES if replica.served.classifies else WRITING
    if path not in routes:
        raise RouteNotFound(f"POST {path!r}: {replica.served.doing} Use {', '.join(routes)}.")
    if not routed(scope, path, usual=path != EMBEDDINGS):
        made = "no embeddings" if path == EMBEDDINGS else "embeddings alone, no text"
        raise NotFound(
            f"The base model {settings.base_name!r} makes {made}. Use "
            f"{'/v1/chat/completions or /v1/completions' if path == EMBEDDINGS else EMBEDDINGS}."
        )
    async with AsyncExitStack() as held:
        exchange, grant = await held.enter_async_context(
            admitted(replica, scope, key, receive, send, settings.request_seconds)
        )
        data = await exchange.read(declared_length(scope), settings.max_body_bytes)
        body = parse_body(data, routes[path], settings.max_model_len)
        if replica.on_cpu:
            check_seed(body)
        user = body.get("metadata", {}).get("user_id") if path == MESSAGES else body.get("user")
        caller = sticky(scope, user, key)
        (found,) = await resolve(replica, catalog, key, [body["model"]], caller)
        version, count = found.version, sequences(body)
        exchange.version = version
        estimate = most_tokens
        if path == EMBEDDINGS:
            app, estimate = Embedded(app), classification.most_tokens
        if replica.served.classifies:
            head = classification.head_at(path, version, settings.base_name)
            app, estimate = classification.Classified(app, head), classification.most_tokens
        grant.claim(
            f"{version.domain}/{version.adapter}" if version else settings.base_name,
            sequences=count,
            tokens=estimate(body, len(data), settings.max_model_len),
        )
        shaping = constraints(body) if path == MESSAGES else body
        await _check_grammars(replica, key, shaping, count)
        watched = held.enter_context(replica.rollouts.watch(found.catalog, found.ref, version))
        judged = _terms_of(replica, scope, found, key, body)
        usage = Usage(
            Shown() if path in REPORTING else ask_for_usage(body),
            n=body.get("n", 1),
            sequences=count,
        )
        body["cache_salt"] = replica.salts.salt(found.catalog, version, key)
        later = ACTING in scope
        place = replica.shares.take(BATCHES if later else key.id, count)
        body["priority"] = await held.enter_async_context(place) + (LATER if later else 0)
        rank = held.enter_context(_placed(replica.ranks, path, version, count))
        tier = None
        if version is not None:
            body["model"] = str(version.ref)
            tier = await _bring(replica, held, key, version, rank)
            replica.catalog.resolve(version.ref)  # it may have been revoked meanwhile
        if later:
            held.enter_context(replica.running_later())
        relay = watched.outcome = Relay(
            exchange,
            version,
            settings.base_name,
            usage,
            path=path,
            judge=Judge(judged) if judged is not None else None,
            engine=replica.identity,
        )
        if found.shadow is not None and version is not None:
            watch = _watched(replica, found.shadow, version, exchange, scope, key, body, len(data))
            app = held.enter_context(watch).through(app)
        grant.tokens = None  # from here on the engine may spend the reserve
        try:
            prepared = functools.partial(
                _prepare, replica, scope, key, version, watched.split, rank
            )
            await replica.faults.relay(app, prepared, body, exchange, relay)
        finally:
            relay.end()
            failed = exchange.reason is None and not relay.status
            grant.tokens = 0 if failed else relay.charge
            access_log.write(
                "request",
                key=key.id,
                model=str(version.ref) if version else settings.base_name,
                path=path,
                status=relay.status or None,
                tier=tier,
                rank=rank,
                seconds=round(relay.seconds, 4),
                prompt_tokens=usage.prompt_tokens or None,
                tokens=usage.tokens,
                trace=trace_id(scope),
            )


async def _check_grammars(replica: Replica, key: Key, body: dict[str, Any], count: int) -> None:
    if not (wanted := grammars(body)):
        return
    try:
        await replica.grammars.check(key.id, wanted, count)
    except RefusedGrammar as error:
        error.param = field(body)
        raise


def _terms_of(
    replica: Replica, scope: Scope, found: Resolution, key: Key, body: dict[str, Any]
) -> Terms | None:
    """On what terms the answer's confidence is judged; None if it is not."""
    version = found.version
    if version is None:
        return None
    wanted = flag(scope, b"x-lorary-confidence")
    abstains = found.catalog.domain(version.domain).policy.abstain
    if flag(scope, b"x-lorary-evaluate"):
        # Whoever judges a version must see what it would have said.
        require(key, "evaluate", version.domain)
        abstains = False
    return terms(
        scope["path"],
        body,
        version,
        wanted=wanted,
        abstains=abstains,
        keys=found.catalog.keys,
        engine=replica.identity,
        controls=replica.controls,
    )


@contextmanager
def _placed(ranks: Ranks, path: str, version: Version | None, count: int) -> Iterator[int | None]:
    """The data-parallel rank that answers; None if there is one only, or if vLLM chooses."""
    ranked = path in RANKED and len(ranks) > 1
    with ranks.place(str(version.ref) if version and ranked else None, count) as rank:
        yield rank if ranked else None


def _watched(
    replica: Replica,
    shadow: Shadow,
    version: Version,
    exchange: Exchange,
    scope: Scope,
    key: Key,
    body: dict[str, Any],
    size: int,
) -> Watch:
    """What has the request answered by the shadow's candidate, too."""
    candidate = replica.catalog.find(replace(version.ref, version=shadow.candidate))
    ranked = scope["path"] in RANKED and len(replica.ranks) > 1
    rank = replica.ranks.home(str(candidate.ref)) if ranked else None
    prepare = functools.partial(_prepare, replica, scope, key, candidate, None, rank)
    return replica.shadows.watch(shadow, candidate, exchange, scope, body, size, prepare, rank)


async def _bring(
    replica: Replica, held: AsyncExitStack, key: Key, version: Version, rank: int | None
) -> Tier:
    """Hold the version in the engine as long as `held`; where it was before."""
    residency = replica.residency
    if residency.tier(version) == "engine":
        return await held.enter_async_context(residency.hold(version, rank))
    async with replica.cold_loads.enter(key.id, version):
        return await held.enter_async_context(residency.hold(version, rank))


def _prepare(
    replica: Replica,
    scope: Scope,
    key: Key,
    version: Version | None,
    split: tuple[str, int] | None,
    rank: int | None,
    body: dict[str, Any],
) -> tuple[str, Scope, bytes]:
    """A request as vLLM gets it: its new id, the scope, and the bytes of its body."""
    path = scope["path"]
    response_id = replica.response_ids.issue(path, version, key.id, split)
    headers = [(b"x-request-id", response_id.encode())]
    if path == RESPONSES:  # vLLM reads no header there
        body = {**body, "request_id": PREFIXES[RESPONSES] + response_id}
    elif path == MESSAGES:  # and no priority of the body here
        headers.append((b"x-vllm-priority", str(body["priority"]).encode()))
        body = {name: value for name, value in body.items() if name != "priority"}
    data = msgspec.json.encode(body)
    headers.append((b"content-length", str(len(data)).encode()))
    if rank is not None:
        headers.append((b"x-data-parallel-rank", str(rank).encode()))
    return response_id, inner(scope, path, b"", *headers), data
