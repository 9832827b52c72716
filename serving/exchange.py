"""The steps of one request for an answer, between the gate and vLLM."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from registry.model.access import require
from registry.model.catalog import Catalog, Key, Version
from serving.outcomes.response_ids import PREFIXES
from serving.replica import Replica
from serving.request.confidence import Terms, terms
from serving.request.flights import Flight
from serving.request.limits import Grant
from serving.request.scopes import allowed_seconds, flag, inner
from serving.tiers.residency import Tier

RESPONSES = "/v1/responses"


@asynccontextmanager
async def exchange(
    replica: Replica,
    scope: Scope,
    key: Key,
    receive: Receive,
    send: Send,
    seconds: float | None = None,
) -> AsyncIterator[tuple[Flight, Grant]]:
    """The scope of one request: admitted before its body is read, ended when its caller disconnects
    or its time is over, and then everything is given back."""
    seconds = allowed_seconds(scope, seconds)
    with replica.limits.admit(key.id) as grant:
        async with replica.flights.follow(receive, send, seconds) as flight:
            yield flight, grant


def terms_of(
    replica: Replica,
    scope: Scope,
    catalog: Catalog,
    key: Key,
    body: dict[str, Any],
    version: Version | None,
) -> Terms | None:
    """On what terms the answer's confidence is judged; None if it is not."""
    if version is None:
        return None
    wanted = flag(scope, b"x-lorary-confidence")
    abstains = catalog.domain(version.domain).policy.abstain
    if flag(scope, b"x-lorary-evaluate"):
        # Whoever judges a version must see what it would have said.
        require(key, "evaluate", version.domain)
        abstains = False
    path, controls = scope["path"], replica.controls
    return terms(
        path,
        body,
        version,
        wanted=wanted,
        abstains=abstains,
        keys=catalog.keys,
        engine=replica.identity,
        controls=controls,
    )


async def bring(replica: Replica, held: AsyncExitStack, key: Key, version: Version) -> Tier:
    """Hold the version in the engine as long as `held`; where it was before."""
    residency = replica.residency
    if residency.tier(version) == "engine":
        return await held.enter_async_context(residency.hold(version))
    async with replica.cold_loads.enter(key.id, version):
        return await held.enter_async_context(residency.hold(version))


def prepare(
    replica: Replica,
    scope: Scope,
    key: Key,
    version: Version | None,
    split: tuple[str, int] | None,
    body: dict[str, Any],
) -> tuple[str, Scope, bytes]:
    """A request as vLLM gets it: its new id, the scope, and the bytes of its body."""
    path = scope["path"]
    response_id = replica.response_ids.issue(path, version, key.id, split)
    if path == RESPONSES:  # vLLM reads no header there
        body = {**body, "request_id": PREFIXES[RESPONSES] + response_id}
    data = msgspec.json.encode(body)
    length = (b"content-length", str(len(data)).encode())
    named = (b"x-request-id", response_id.encode())
    return response_id, inner(scope, path, b"", length, named), data
