"""Routes that change what names mean and who may do what: aliases, approvals, keys, domains."""

from typing import Any

import msgspec
from fastapi import APIRouter, Response

from adapters.base_model import BaseModel
from adapters.names import AdapterRef, check_name
from registry.http.access import Caller, CallerDep
from registry.http.schemas import (
    AliasBody,
    ApproveBody,
    BaseBody,
    BoundsBody,
    DefaultBody,
    DomainBody,
    KeyBody,
    PolicyBody,
    ReasonBody,
    SplitBody,
)
from registry.http.views import adapter_view, domain_view, key_view, plain, version_view
from registry.model.access import ANY_DOMAIN, Secret
from registry.model.aliases import MoveAlias
from registry.model.base import Command
from registry.model.canary import SplitAlias
from registry.model.catalog import Grant
from registry.model.domains import ChangePolicy, CreateDomain, SetDefaultAdapter
from registry.model.keys import IssueKey, RevokeKey
from registry.model.policies import Policy, merged
from registry.model.standing import calibrated
from registry.model.trials import Bounds
from registry.model.versions import ApproveVersion, RevokeVersion, TombstoneVersion
from registry.publish.publishing import register_base

router = APIRouter(tags=["governing"])


def _execute(caller: Caller, command: Command) -> None:
    caller.registry.execute(command, caller.key.id)


def _version(caller: Caller, ref: AdapterRef) -> dict[str, Any]:
    catalog = caller.registry.catalog
    version = catalog.find(ref)
    return plain(version_view(version, calibrated(catalog.keys, version)))


@router.put("/adapters/{domain}/{adapter}/aliases/{alias}")
def move_alias(
    caller: CallerDep, domain: str, adapter: str, alias: str, body: AliasBody
) -> dict[str, Any]:
    """Let an alias name a version."""
    check_name(domain, "domain")
    _execute(caller, MoveAlias(domain, adapter, alias, body.version, body.expected))
    catalog = caller.registry.catalog
    return adapter_view(catalog.adapter(AdapterRef(domain, adapter)), catalog.domain(domain))


@router.put("/adapters/{domain}/{adapter}/aliases/{alias}/split")
def split_alias(
    caller: CallerDep, domain: str, adapter: str, alias: str, body: SplitBody
) -> dict[str, Any]:
    """Let a share of an alias's callers get a candidate."""
    check_name(domain, "domain")
    bounds = _bounds(body.bounds)
    _execute(caller, SplitAlias(domain, adapter, alias, body.candidate, body.percent, bounds))
    catalog = caller.registry.catalog
    return adapter_view(catalog.adapter(AdapterRef(domain, adapter)), catalog.domain(domain))


@router.post("/adapters/{domain}/{adapter}/versions/{version}/approvals")
def approve(
    caller: CallerDep, domain: str, adapter: str, version: int, body: ApproveBody
) -> dict[str, Any]:
    """Vouch for exactly these bytes."""
    caller.require("approve", check_name(domain, "domain"))
    _execute(caller, ApproveVersion(domain, adapter, version, body.digest))
    return _version(caller, AdapterRef(domain, adapter, version))


@router.post("/adapters/{domain}/{adapter}/versions/{version}/revocation")
def revoke_version(
    caller: CallerDep, domain: str, adapter: str, version: int, body: ReasonBody
) -> dict[str, Any]:
    """Let nobody be served this version any more."""
    caller.require("operate", check_name(domain, "domain"))
    _execute(caller, RevokeVersion(domain, adapter, version, body.reason))
    return _version(caller, AdapterRef(domain, adapter, version))


@router.post("/adapters/{domain}/{adapter}/versions/{version}/tombstone")
def tombstone_version(
    caller: CallerDep, domain: str, adapter: str, version: int, body: ReasonBody
) -> dict[str, Any]:
    """Give up this version's bytes for good; `lorary gc` then removes them."""
    caller.require("operate", check_name(domain, "domain"))
    _execute(caller, TombstoneVersion(domain, adapter, version, body.reason))
    return _version(caller, AdapterRef(domain, adapter, version))


@router.get("/keys")
def list_keys(caller: CallerDep) -> list[dict[str, Any]]:
    """Every key, without secrets."""
    caller.require("operate", ANY_DOMAIN)
    return [key_view(key) for key in caller.catalog.keys.values()]


@router.post("/keys", status_code=201)
def issue_key(caller: CallerDep, body: KeyBody, response: Response) -> dict[str, Any]:
    """A new key; this answer is the only place where it ever stands in full."""
    secret = Secret.generate()
    grants = tuple(Grant(grant.role, grant.domain) for grant in body.grants)
    _execute(caller, IssueKey(secret.id, body.name, secret.digest, grants, body.expires))
    response.headers["Cache-Control"] = "no-store"
    return {**key_view(caller.registry.catalog.keys[secret.id]), "key": secret.text}


@router.post("/keys/{key}/revocation")
def revoke_key(caller: CallerDep, key: str, body: ReasonBody) -> dict[str, Any]:
    """Let a key open nothing any more."""
    _execute(caller, RevokeKey(key, body.reason))
    return key_view(caller.registry.catalog.keys[key])


@router.post("/domains", status_code=201)
def create_domain(caller: CallerDep, body: DomainBody) -> dict[str, Any]:
    """Open a domain under a policy."""
    _execute(caller, CreateDomain(body.domain, _policy(body.policy)))
    return domain_view(caller.registry.catalog.domain(body.domain))


@router.patch("/domains/{domain}/policy")
def change_policy(
    caller: CallerDep, domain: str, body: PolicyBody, weaken: bool = False
) -> dict[str, Any]:
    """Change the fields of a domain's policy that the body names; the others stay as they are.

    A change that protects less is refused unless `weaken` is true.
    """
    caller.require("operate", check_name(domain, "domain"))
    now = caller.catalog.domain(domain).policy
    policy = merged(now, body.model_dump(exclude_unset=True))
    _execute(caller, ChangePolicy(domain, policy, expected=now, weaken=weaken))
    return domain_view(caller.registry.catalog.domain(domain))


@router.put("/domains/{domain}/default")
def set_default(caller: CallerDep, domain: str, body: DefaultBody) -> dict[str, Any]:
    """Let the domain's bare name mean an adapter."""
    _execute(caller, SetDefaultAdapter(domain, body.adapter))
    return domain_view(caller.registry.catalog.domain(domain))


@router.post("/bases", status_code=201)
def add_base(caller: CallerDep, body: BaseBody) -> dict[str, Any]:
    """Make a base model known, or add names and norms to one with the same weights."""
    caller.require("operate", ANY_DOMAIN)
    base = BaseModel(
        body.name, body.digest, dict(body.modules), tuple(body.known_as), dict(body.norms)
    )
    base = register_base(caller.registry, base, caller.key.id)
    return {
        "name": base.name,
        "digest": base.digest,
        "modules": len(base.modules),
        "norms": len(base.norms),
        "known_as": list(base.known_as),
    }


def _bounds(body: BoundsBody | None) -> Bounds | None:
    return None if body is None else msgspec.convert(body.model_dump(), Bounds)


def _policy(body: PolicyBody) -> Policy:
    return msgspec.convert(body.model_dump(), Policy)
