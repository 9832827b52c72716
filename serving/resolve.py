"""Who asks, and what their `model` names now: a key, and one pinned version or the base model."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import Scope

from adapters.errors import LoraryError
from adapters.names import AdapterRef
from registry.errors import Forbidden, NotFound, Unauthenticated, UnknownAdapter
from registry.model.access import (
    Secret,
    authenticate,
    bearer,
    check_active,
    has_role,
    may_observe,
    may_see,
)
from registry.model.catalog import Catalog, Key, Version
from registry.model.comparisons import Shadow, shadow_of
from registry.times import utc_now
from serving.errors import RegistryUnavailable
from serving.replica import Replica
from serving.request.envelopes import is_anthropic
from serving.request.headers import BATCH_KEY, header


@dataclass(frozen=True, slots=True)
class Resolution:
    """What one request's `model` names, by the catalog that says so."""

    catalog: Catalog
    ref: AdapterRef | None
    """The name as it was asked for; None for the base model."""
    version: Version | None
    """What answers; None for the base model."""
    shadow: Shadow | None = None
    """What also answers, without anybody's getting it."""


async def identify(replica: Replica, scope: Scope) -> tuple[Catalog, Key]:
    """Who asks, by the newest catalog; raises `Unauthenticated`, once the registry was asked again:
    the key may just have been issued."""
    catalog = replica.catalog
    if BATCH_KEY in scope:
        scope["lorary.key"] = scope[BATCH_KEY]
        return catalog, key_of_batch(catalog, scope[BATCH_KEY])
    presented = _presented(scope)
    try:
        key = authenticate(catalog, presented, utc_now())
    except Unauthenticated:
        catalog = await replica.look_again()
        key = authenticate(catalog, presented, utc_now())
    scope["lorary.key"] = key.id
    return catalog, key


def key_of_batch(catalog: Catalog, key_id: str) -> Key:
    """The key that made a batch, for the batch's lines.

    Raises `Unauthenticated` if it opens nothing any more, and `RegistryUnavailable` if it was
    issued after this replica last read the registry.
    """
    key = catalog.keys.get(key_id)
    if key is None:
        raise RegistryUnavailable(
            "This server has not read of the batch's key yet. Retry in a second."
        )
    check_active(key, utc_now())
    return key


def _presented(scope: Scope) -> Secret:
    """The key that a request brings; Anthropic's clients send it as `X-Api-Key`."""
    given = header(scope, b"authorization")
    if given is None and is_anthropic(scope["path"]):
        text = header(scope, b"x-api-key")
        given = None if text is None else f"Bearer {text}"
    return bearer(given)


def is_observer(replica: Replica, scope: Scope) -> bool:
    """Whether the caller may see other domains' names; a load balancer has no key."""
    try:
        presented = bearer(header(scope, b"authorization"))
        key = authenticate(replica.catalog, presented, utc_now())
    except LoraryError:
        return False
    return may_observe(key)


async def resolve(
    replica: Replica, catalog: Catalog, key: Key, models: Sequence[str], caller: str = ""
) -> list[Resolution]:
    """What `models` name now, if `key` may use them.

    caller: who is to stay with one version of a split alias. What is not found in `catalog` may
    just have been published or named, so the registry is asked again, once, before it is refused.
    """
    try:
        return [_find(replica, catalog, key, model, caller) for model in models]
    except NotFound:
        catalog = await replica.look_again()
        return [_find(replica, catalog, key, model, caller) for model in models]


def _find(replica: Replica, catalog: Catalog, key: Key, model: str, caller: str) -> Resolution:
    if model == replica.settings.base_name:
        if not any(grant.role == "infer" for grant in key.grants):
            raise Forbidden(f"Key {key.id} may not infer. Ask an operator for the role.")
        return Resolution(catalog, None, None)
    ref = AdapterRef.parse(model)
    # Before looking, so that what exists in other domains does not show.
    if not has_role(key, "infer", ref.domain):
        raise Forbidden(
            f"Key {key.id} may not infer in a domain {ref.domain!r}, if there is one. "
            "GET /v1/models lists the models that it may use."
        )
    try:
        version = replica.warming.resolve(catalog, ref, caller)
    except UnknownAdapter as error:
        near = [p for p in error.near if may_see(key, p.partition("/")[0])]
        raise UnknownAdapter(ref.path, near) from None
    replica.served.check(version)
    running = catalog.adapters[f"{version.domain}/{version.adapter}"].shadowed
    return Resolution(catalog, ref, version, shadow_of(running, ref, version.number))
