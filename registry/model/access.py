"""API keys and roles. Pure: the time is passed in.

A key reads `lry_<id>_<secret>`, or `hf_lry_<id>_<secret>` for clients that take only tokens of the
Hugging Face Hub's form. The id is public and names the actor in the log; of the 256-bit
secret only a SHA-256 is kept (it has full entropy, so a slow hash would add nothing).
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Literal, get_args

from registry import times
from registry.errors import BadRequest, Forbidden, Unauthenticated
from registry.model.catalog import Catalog, Key

Role = Literal[
    "infer", "publish", "evaluate", "review", "approve", "operate", "serve", "observe", "audit"
]
"""`observe` reads metrics only, `audit` reads everything and changes nothing. `operate` implies
`audit` and `observe`, and neither `review` nor `approve`: those are experts' own."""
ROLES: tuple[Role, ...] = get_args(Role)
ROLE_MEANINGS: dict[Role, str] = {
    "infer": "Send requests to the domain's adapters, and download them.",
    "publish": "Publish versions, move aliases that are not guarded.",
    "evaluate": "Record evaluations, read reports, open and close reviews, push tasks and read "
    "their files.",
    "review": "Judge answers in reviews.",
    "approve": "Approve versions that another person published; decide about harm that experts "
    "found.",
    "operate": "Change policies, issue and revoke keys, revoke and delete versions. Implies "
    "`audit` and `observe`.",
    "serve": "Report feedback and rollbacks: for vLLM servers.",
    "observe": "Read metrics and nothing else. Counts only as `observe:*`, because metrics name "
    "all domains.",
    "audit": "Read everything of its domains, the log and reports included, and change nothing.",
}
"""What each role may do."""
EXPERTS: tuple[Role, ...] = ("review", "approve")
"""Roles whose holders are counted as persons."""
UPLOADERS: tuple[Role, ...] = ("publish", "evaluate")
"""Roles that upload files: of adapters, and of tasks."""
ANY_DOMAIN = "*"
BOOTSTRAP = "bootstrap"
"""The actor of a registry's first commit, before any key exists."""
RECOVERY = "recovery"
"""The actor of whoever recovers access by the store's credentials. It has no key."""


def as_role(text: str) -> Role:
    """`text` as a role; raises `BadRequest`."""
    for role in ROLES:
        if role == text:
            return role
    raise BadRequest(f"{text[:40]!r} is no role. Use one of {', '.join(ROLES)}.")


ADVICE = "Send a Lorary key: `Authorization: Bearer lry_...`"
"""What to do about a key that does not count, for callers over HTTP."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A key in the clear. It is shown once, and its secret never printed by accident."""

    id: str
    secret: str = field(repr=False)

    @classmethod
    def generate(cls) -> "Secret":
        """A new random key."""
        return cls(secrets.token_hex(6), secrets.token_urlsafe(32))

    @classmethod
    def parse(cls, text: str) -> "Secret":
        """Read `lry_<id>_<secret>`, with or without `hf_` before it; raises `Unauthenticated`."""
        prefix, _, rest = text.removeprefix("hf_").partition("_")
        key, _, secret = rest.partition("_")
        if prefix != "lry" or not key or not secret or len(text) > 200 or not text.isascii():
            raise Unauthenticated(f"That is not a Lorary key. {ADVICE}.")
        return cls(key, secret)

    @property
    def digest(self) -> str:
        """What the log may know of the secret."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    @property
    def text(self) -> str:
        """The whole key, for its owner."""
        return f"lry_{self.id}_{self.secret}"


def bearer(header: str | None) -> Secret:
    """The key in an `Authorization` header; raises `Unauthenticated`."""
    scheme, _, text = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise Unauthenticated(f"No API key. {ADVICE}, or api_key=... in the OpenAI client.")
    return Secret.parse(text.strip())


def authenticate(catalog: Catalog, presented: Secret, now: str) -> Key:
    """The key that `presented` proves to hold, if it is valid at `now`.

    Raises `Unauthenticated`; the message does not tell an unknown id from a wrong secret.
    """
    key = catalog.keys.get(presented.id)
    digest = key.secret_sha256 if key else "0" * 64
    if not hmac.compare_digest(digest, presented.digest) or key is None:
        raise Unauthenticated(f"That key is not known here. {ADVICE}.")
    check_active(key, now)
    return key


def check_active(key: Key, now: str) -> None:
    """Raises `Unauthenticated` if the key is revoked or has expired at `now`."""
    if key.revoked is not None:
        raise Unauthenticated("That key was revoked. Ask an operator for a new one.")
    if key.expires is not None and times.reached(key.expires, now):
        raise Unauthenticated(f"That key expired on {key.expires}. Ask an operator for a new one.")


def has_role(key: Key, role: Role, domain: str) -> bool:
    """Whether `key` has `role` in `domain`; pass `*` to ask for a grant over all domains."""
    return any(g.role == role and g.domain in (ANY_DOMAIN, domain) for g in key.grants)


def may_see(key: Key, domain: str) -> bool:
    """Whether `key` has a role in `domain` that is enough to look at what it holds.

    Any is, but `serve`, which only reports, and `observe`, which only reads metrics.
    """
    return any(
        g.role not in ("serve", "observe") and g.domain in (ANY_DOMAIN, domain) for g in key.grants
    )


def may_audit(key: Key, domain: str) -> bool:
    """Whether `key` may read the audit log and the reports of `domain`; `*`: of all domains."""
    return has_role(key, "audit", domain) or has_role(key, "operate", domain)


def require_audit(key: Key, domain: str) -> None:
    """Raises `Forbidden` unless `key` may read what auditors read of `domain`."""
    if not may_audit(key, domain):
        require(key, "audit", domain)


def require_some_audit(key: Key) -> None:
    """Raises `Forbidden` unless `key` may read the audit log of some domain."""
    if not any(grant.role in ("audit", "operate") for grant in key.grants):
        raise Forbidden(
            f"Key {key.id} ({key.name}) has no role 'audit' in any domain. "
            "Ask an operator: lorary key issue NAME --grant audit:DOMAIN"
        )


def may_observe(key: Key) -> bool:
    """Whether `key` may read metrics and the details of a server's health."""
    return has_role(key, "observe", ANY_DOMAIN) or has_role(key, "operate", ANY_DOMAIN)


def require_observe(key: Key) -> None:
    """Raises `Forbidden` unless `key` may read metrics."""
    if not may_observe(key):
        require(key, "observe", ANY_DOMAIN)


def require(key: Key, role: Role, domain: str) -> None:
    """Raises `Forbidden` unless `key` has `role` in `domain`."""
    if not has_role(key, role, domain):
        where = "all domains" if domain == ANY_DOMAIN else f"domain {domain!r}"
        raise Forbidden(
            f"Key {key.id} ({key.name}) has no role {role!r} in {where}. "
            f"Ask an operator: lorary key issue NAME --grant {role}:{domain}"
        )
