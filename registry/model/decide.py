"""Whether a command is allowed now, and what then happens. Pure: the time is passed in.

`decide` sees the state that its events will be appended to (the log makes sure of that), so every
rule here holds however many registries run.
"""

from typing import assert_never

from adapters.fields import problem
from registry import errors
from registry.model.access import (
    ANY_DOMAIN,
    BOOTSTRAP,
    Role,
    as_role,
    check_active,
    require,
)
from registry.model.catalog import Catalog
from registry.model.commands import (
    ApproveVersion,
    ChangePolicy,
    CloseReview,
    Command,
    CondemnBlobs,
    CreateDomain,
    CreateRegistry,
    EraseReview,
    GiveFeedback,
    IssueKey,
    JudgeItem,
    MoveAlias,
    OpenReview,
    PublishVersion,
    RecordEvaluation,
    RegisterBase,
    RevokeKey,
    RevokeVersion,
    RollBackSplit,
    SetDefaultAdapter,
    SplitAlias,
    SweepBlobs,
    TombstoneVersion,
)
from registry.model.events import (
    AnyEvent,
    BlobsSwept,
)
from registry.model.rules import aliases, domains, evaluations, keys, reviews, rollouts, versions


def decide(catalog: Catalog, command: Command, actor: str, now: str) -> tuple[AnyEvent, ...]:
    """The events that `command`, given by key id `actor` at `now`, causes in `catalog`.

    An empty tuple means: already so. Raises a `LoraryError` that says why not.
    """
    if wrong := problem(command):
        raise errors.BadRequest(f"{wrong}. Correct the request.")
    _authorise(catalog, command, actor, now)
    match command:
        case CreateRegistry():
            return domains.create_registry(catalog, command)
        case RegisterBase():
            return domains.register_base(catalog, command)
        case CreateDomain():
            return domains.create_domain(catalog, command)
        case ChangePolicy():
            return domains.change_policy(catalog, command)
        case SetDefaultAdapter():
            return aliases.set_default(catalog, command)
        case PublishVersion():
            return versions.publish(catalog, command)
        case MoveAlias():
            return aliases.move_alias(catalog, command, actor, now)
        case SplitAlias():
            return aliases.split_alias(catalog, command, actor, now)
        case RollBackSplit():
            return rollouts.roll_back(catalog, command)
        case GiveFeedback():
            return rollouts.give_feedback(catalog, command, now)
        case ApproveVersion():
            return versions.approve(catalog, command, actor)
        case RecordEvaluation():
            return evaluations.record(catalog, command)
        case OpenReview():
            return reviews.open_review(catalog, command)
        case JudgeItem():
            return reviews.judge(catalog, command, actor)
        case CloseReview():
            return reviews.close(catalog, command)
        case EraseReview():
            return reviews.erase(catalog, command)
        case RevokeVersion():
            return versions.revoke(catalog, command)
        case TombstoneVersion():
            return versions.tombstone(catalog, command)
        case CondemnBlobs():
            return versions.condemn(catalog, command)
        case SweepBlobs():
            return (BlobsSwept(),) if catalog.condemned else ()
        case IssueKey():
            return keys.issue_key(catalog, command, now)
        case RevokeKey():
            return keys.revoke_key(catalog, command, now)
        case _ as unreachable:
            assert_never(unreachable)


def _authorise(catalog: Catalog, command: Command, actor: str, now: str) -> None:
    """Raises `Unauthenticated` or `Forbidden` unless `actor` may give this command at all."""
    if isinstance(command, CreateRegistry):
        if actor != BOOTSTRAP:
            raise errors.Forbidden("A registry is created once, by `lorary init`.")
        return
    key = catalog.keys.get(actor)
    if key is None:
        raise errors.Unauthenticated("That key is not known here.")
    check_active(key, now)
    role, domain = _needs(catalog, command)
    require(key, role, domain)


def _needs(catalog: Catalog, command: Command) -> tuple[Role, str]:
    """The role, and where, that a command takes."""
    match command:
        case PublishVersion():
            return "publish", command.domain
        case MoveAlias() | SplitAlias():
            domain = catalog.domains.get(command.domain)
            if domain is not None and command.alias in domain.policy.guarded:
                return as_role(domain.policy.guarded_role), command.domain
            return "publish", command.domain
        case RollBackSplit() | GiveFeedback():
            return "serve", command.domain
        case ApproveVersion():
            return "approve", command.domain
        case RecordEvaluation() | OpenReview():
            return "evaluate", command.domain
        case JudgeItem():
            return "review", reviews.find(catalog, command.review).domain
        case CloseReview():
            return "evaluate", reviews.find(catalog, command.review).domain
        case EraseReview():
            return "operate", reviews.find(catalog, command.review).domain
        case SetDefaultAdapter() | ChangePolicy() | RevokeVersion() | TombstoneVersion():
            return "operate", command.domain
        case _:
            return "operate", ANY_DOMAIN
