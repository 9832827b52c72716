"""Tags and branches as the Hub's clients create them: a tag is an alias, main the only branch."""

from typing import Annotated, Any

from fastapi import APIRouter, Body

from adapters.names import AdapterRef, check_alias
from registry import errors
from registry.http.access import CallerDep
from registry.hub.not_offered import not_offered
from registry.hub.revisions import MAIN, commit_id, find
from registry.model.aliases import MoveAlias

router = APIRouter(tags=["hub"])


@router.post("/api/models/{domain}/{adapter}/tag/{revision}")
def create_tag(
    caller: CallerDep,
    domain: str,
    adapter: str,
    revision: str,
    tag: Annotated[str, Body(embed=True, max_length=200)],
) -> dict[str, Any]:
    """Let a new alias name the version of `revision`. 409 if there is such an alias, whatever it
    names: clients take that for success where they say `exist_ok`."""
    ref = caller.looks_at(AdapterRef.parse(f"{domain}/{adapter}"))
    version = find(caller.catalog, domain, adapter, revision)
    named = caller.catalog.adapter(ref).aliases.get(check_alias(tag))
    if tag == MAIN or named is not None:
        raise errors.Conflict(
            f"{tag!r} exists and names version {named}. Let it name this one: "
            f"lorary alias set {version.ref} {tag}"
            if named is not None
            else f"{tag!r} exists: it is what production names."
        )
    try:
        move = MoveAlias(domain, adapter, tag, version.number, expected=0)
        caller.registry.execute(move, caller.key.id)
    except errors.PromotionNotEarned as error:
        raise errors.Forbidden(error.message) from error  # as 409 it would read as success
    return {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": commit_id(version)}


@router.post("/api/models/{domain}/{adapter}/branch/{branch:path}")
def create_branch(caller: CallerDep, domain: str, adapter: str, branch: str) -> None:
    """409 for main, which every adapter has; others are not offered."""
    ref = caller.looks_at(AdapterRef.parse(f"{domain}/{adapter}"))
    if branch == MAIN:
        raise errors.Conflict(f"{ref.path} has the branch main already. Commit to it.")
    raise not_offered("POST", f"/api/models/{ref.path}/branch/{branch}")
