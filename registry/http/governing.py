"""Routes of keys, policies and base models that do more than carry out one command."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Response

from adapters.base_model import BaseModel
from adapters.names import check_name
from registry.http.access import CallerDep
from registry.http.paging import LIMIT, After, Limit, page_of
from registry.http.schemas import BaseBody, Body, FieldsOf, given
from registry.http.views import domain_view, key_view
from registry.model.access import ANY_DOMAIN, Secret, require_audit
from registry.model.domains import ChangePolicy
from registry.model.keys import IssueKey
from registry.model.policies import Policy, merged
from registry.publish.publishing import register_base

router = APIRouter(tags=["governing"])


@router.get("/keys")
def list_keys(caller: CallerDep, after: After = "", limit: Limit = LIMIT) -> list[dict[str, Any]]:
    """A page of the keys, without secrets. It takes the role audit or operate in all domains."""
    require_audit(caller.key, ANY_DOMAIN)
    keys = caller.catalog.keys
    return [key_view(keys[key]) for key in page_of(keys, after, limit)]


@router.post("/keys", status_code=201)
def issue_key(
    caller: CallerDep,
    body: Annotated[Body, FieldsOf(IssueKey, "key", "secret_sha256")],
    response: Response,
) -> dict[str, Any]:
    """Issue a key; this answer is the only place where it ever stands in full."""
    secret = Secret.generate()
    command = IssueKey(key=secret.id, secret_sha256=secret.digest, **given(body))
    caller.registry.execute(command, caller.key.id)
    response.headers["Cache-Control"] = "no-store"
    return {**key_view(caller.registry.catalog.keys[secret.id]), "key": secret.text}


@router.patch("/domains/{domain}/policy")
def change_policy(
    caller: CallerDep, domain: str, body: Annotated[Body, FieldsOf(Policy)], weaken: bool = False
) -> dict[str, Any]:
    """Change the fields of a domain's policy that the body names; the others stay as they are.

    A change that protects less is refused unless `weaken` is true.
    """
    caller.require("operate", check_name(domain, "domain"))
    now = caller.catalog.domain(domain).policy
    changed = merged(now, msgspec.to_builtins(given(body)))
    command = ChangePolicy(domain, changed, expected=now, weaken=weaken)
    caller.registry.execute(command, caller.key.id)
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
