"""What the registry refuses or fails to do.

LoraryError
├── StoreError               the object store
│   ├── ObjectNotFound       there is nothing under that key
│   ├── AlreadyExists        somebody else wrote the key first: do not retry
│   ├── OutcomeUnknown       no answer came back; it may have landed: read before retrying
│   ├── StoreUnavailable     the store cannot be reached or refuses us
│   │   └── StoreBusy        it throttles us or fails for now, after reads were repeated
│   ├── StoreUnfit           the store does not keep a promise that the log rests on
│   ├── ReadOnly             the registry takes no changes for now
│   └── DigestMismatch       what is stored is not what was declared
├── BrokenChain              a commit that does not follow the one before it
│   └── NewerLog             a commit that a newer Lorary wrote and this one must not pass over
├── Outdated                 a newer Lorary wrote what this one passed over: it may read, not write
├── RegistryMissing          the store holds no registry yet
├── Unauthenticated          no key, or none that opens anything
├── Forbidden                a valid key without the role for this domain
├── NotFound
│   ├── UnknownDomain, UnknownAdapter, NoDefaultAdapter, UnknownVersion, UnknownAlias
│   └── UnknownFile, UnknownKey, UnknownBase, UnknownReview, UnknownWebhook, UnknownTask
├── VersionRevoked           a version that nobody may be served
├── VersionGone              a version whose bytes were given up
├── Conflict                 the state does not allow it (a name taken, an alias moved)
│   ├── VersionConflict      a version was published since the publisher looked
│   ├── BaseMismatch         the adapter was made for another base model
│   ├── ContentMissing       a file to publish is not stored (any more): upload it again
│   ├── BeingCollected       a blob is being removed as garbage: repeat in a moment
│   ├── FeedbackTooLate      an answer so old that nobody can tell whether it was judged
│   ├── PolicyWeakened       a policy that would protect less, without confirmation
│   └── PromotionNotEarned   a guarded alias and a version that lacks something
├── AdmissionRefused         files that may not become a version; lists every problem
├── BadRequest               a request that cannot be read
├── NotOffered               something that the Hub's clients ask for and Lorary does not do
├── RangeNotSatisfiable      a part of a file that lies outside it
├── TooLarge, TooSlow        more bytes than a limit allows; a body that did not arrive in time
└── Overloaded               too many unfinished requests: repeat in a moment
"""

from collections.abc import Sequence

from adapters.admission import Problem
from adapters.errors import LoraryError


class StoreError(LoraryError):
    """The object store failed or refused."""

    status = 503
    code = "store_error"


class ObjectNotFound(StoreError):
    """There is nothing under that key."""

    status = 404
    code = "object_not_found"


class AlreadyExists(StoreError):
    """The key is taken: somebody else won. Do not retry."""

    status = 409
    code = "already_exists"


class OutcomeUnknown(StoreError):
    """No answer came back; it may have landed. Read before retrying."""

    status = 504  # and no `Retry-After`: clients that repeat a 503 themselves must not repeat this
    code = "outcome_unknown"


class StoreUnavailable(StoreError):
    """The store cannot be reached, or refuses these credentials."""

    code = "store_unavailable"


class StoreBusy(StoreUnavailable):
    """The store throttles requests or has a passing fault; repeating the read did not help."""

    code = "store_busy"
    retry_after = 2.0


class StoreUnfit(StoreError):
    """The store does not keep a promise that the log rests on. Use another one."""

    status = 500
    code = "store_unfit"


class ReadOnly(StoreError):
    """The registry takes no changes for now; reading goes on."""

    code = "read_only"
    retry_after = 60.0


class DigestMismatch(StoreError):
    """Stored or received bytes that are not the declared ones."""

    status = 422
    code = "digest_mismatch"


class BrokenChain(LoraryError):
    """A commit that cannot be read, or does not follow the one before it."""

    code = "broken_chain"


class NewerLog(BrokenChain):
    """A commit that a newer Lorary wrote, with something that this one must not pass over."""

    status = 503
    code = "newer_log"
    retry_after = 60.0


class Outdated(LoraryError):
    """This process passed over events that it does not know; it may read, but not write."""

    status = 503
    code = "outdated"
    retry_after = 60.0

    def __init__(self, passed_over: int) -> None:
        super().__init__(
            f"A newer Lorary wrote {passed_over} event(s) to this registry's log that this one "
            "does not know, so it reads on but decides nothing. Update it."
        )


class RegistryMissing(LoraryError):
    """The store holds no registry."""

    status = 503
    code = "registry_missing"


class Unauthenticated(LoraryError):
    """No key, or one that opens nothing."""

    status = 401
    code = "invalid_api_key"


class Forbidden(LoraryError):
    """A valid key without the role this needs."""

    status = 403
    code = "forbidden"


class NotFound(LoraryError):
    """Something that was named and does not exist."""

    status = 404
    code = "not_found"


class UnknownDomain(NotFound):
    """No such domain."""

    code = "domain_not_found"
    param = "model"

    def __init__(self, domain: str, near: Sequence[str] = ()) -> None:
        super().__init__(f"There is no domain {domain!r}.{_did_you_mean(near, 'lorary domain ls')}")


class UnknownAdapter(NotFound):
    """No such adapter."""

    code = "adapter_not_found"
    param = "model"

    def __init__(self, path: str, near: Sequence[str] = ()) -> None:
        self.path, self.near = path, tuple(near)
        super().__init__(f"There is no adapter {path!r}.{_did_you_mean(near)}")


class NoDefaultAdapter(NotFound):
    """A domain's bare name, and the domain has no default adapter."""

    code = "no_default_adapter"
    param = "model"

    def __init__(self, domain: str, adapters: Sequence[str]) -> None:
        named = f" Name one: {', '.join(adapters[:5])}." if adapters else ""
        super().__init__(f"Domain {domain!r} has no default adapter.{named}")


class UnknownVersion(NotFound):
    """No such version of an adapter that exists."""

    code = "version_not_found"
    param = "model"

    def __init__(self, path: str, number: int, newest: int) -> None:
        super().__init__(f"{path} has no version {number}. Its newest is {path}@{newest}.")


class UnknownAlias(NotFound):
    """No such alias of an adapter that exists."""

    code = "alias_not_found"
    param = "model"

    def __init__(self, path: str, alias: str, aliases: Sequence[str]) -> None:
        has = f"It has {', '.join(aliases)}." if aliases else "It has none yet."
        super().__init__(
            f"{path} has no alias {alias!r}. {has} Pin a version, such as {path}@1, or set the "
            f"alias: lorary alias set {path}@1 {alias}"
        )


class UnknownFile(NotFound):
    """No such file in a version that exists."""

    code = "file_not_found"


class UnknownKey(NotFound):
    """No such API key."""

    code = "key_not_found"


class UnknownReview(NotFound):
    """No such review."""

    code = "review_not_found"


class UnknownWebhook(NotFound):
    """No such webhook."""

    code = "webhook_not_found"


class UnknownTask(NotFound):
    """No such task in a domain that exists."""

    code = "task_not_found"


class UnknownBase(NotFound):
    """No such base model in this registry."""

    code = "base_not_found"


class VersionRevoked(LoraryError):
    """A version that nobody may be served any more."""

    status = 410
    code = "version_revoked"
    param = "model"

    def __init__(self, ref: str, reason: str) -> None:
        super().__init__(f"{ref} was revoked: {reason}. Use another version.")


class VersionGone(LoraryError):
    """A version whose bytes were given up."""

    status = 410
    code = "version_gone"
    param = "model"

    def __init__(self, ref: str, reason: str) -> None:
        super().__init__(f"{ref} is no longer kept: {reason}. Use another version.")


class Conflict(LoraryError):
    """The registry's state does not allow this."""

    status = 409
    code = "conflict"


class VersionConflict(Conflict):
    """Somebody published a version since the publisher looked; nothing of it was overwritten."""

    status = 412
    code = "version_conflict"


class BaseMismatch(Conflict):
    """An adapter for another base model than the one served here."""

    code = "base_mismatch"
    param = "model"


class ContentMissing(Conflict):
    """A file to publish that is not stored, or not as declared: upload it again."""

    code = "content_missing"


class BeingCollected(Conflict):
    """A blob that is being removed as garbage: repeat in a moment."""

    code = "being_collected"


class FeedbackTooLate(Conflict):
    """A rating of an answer older than all that are remembered."""

    code = "feedback_too_late"
    param = "id"


class PolicyWeakened(Conflict):
    """A change of a policy that protects less, without confirmation."""

    code = "policy_weakened"

    def __init__(self, domain: str, weaker: Sequence[str]) -> None:
        super().__init__(
            f"The change weakens the policy of {domain!r}: {', '.join(weaker)}. "
            "Confirm it: `lorary domain policy --yes`, or `weaken=true` over HTTP."
        )


class PromotionNotEarned(Conflict):
    """A guarded alias, and a version that does not meet the domain's policy yet."""

    code = "promotion_not_earned"

    def __init__(self, alias: str, ref: str, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        super().__init__(f"{alias!r} is guarded and {ref} still lacks: {'; '.join(missing)}.")


class AdmissionRefused(LoraryError):
    """Files that may not become a version, with everything that is wrong with them."""

    status = 422
    code = "admission_refused"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        listed = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"The adapter was refused for {len(problems)} reason(s):{listed}")


class BadRequest(LoraryError):
    """A request that cannot be read."""

    status = 400
    code = "invalid_request"


class NotOffered(LoraryError):
    """Something that clients of the Hugging Face Hub ask for and Lorary does not do."""

    status = 400  # no 5xx: proxies take a server out of service that often answers so
    code = "not_offered"


class RangeNotSatisfiable(LoraryError):
    """A part of a file that lies outside it."""

    status = 416
    code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"The file has {size} bytes, and the range lies outside. Ask for less.")


class TooLarge(LoraryError):
    """More bytes than a limit allows."""

    status = 413
    code = "too_large"


class TooSlow(LoraryError):
    """A body that did not arrive in time."""

    status = 408
    code = "request_timeout"


class Overloaded(LoraryError):
    """Too many unfinished requests hold memory or wait for their turn: repeat in a moment."""

    status = 503
    code = "overloaded"
    retry_after = 5.0


def _did_you_mean(near: Sequence[str], listing: str = "lorary ls") -> str:
    return f" Did you mean {', '.join(near)}?" if near else f" List them with `{listing}`."
