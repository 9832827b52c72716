"""Commands that say who may do what: keys, domains, base models, approvals, revocations."""

from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.base_model import BaseModel
from adapters.errors import InvalidName
from adapters.names import AdapterRef
from registry.access import ROLES
from registry.cli.output import AsJson, client, emit, say, table
from registry.errors import BadRequest

Guard = Annotated[
    list[str], typer.Option(help="An alias that moves only by approval; --no-guard for none.")
]
Approvals = Annotated[int, typer.Option(min=0, help="Approvals that a guarded alias takes.")]
NoGuard = Annotated[bool, typer.Option("--no-guard", help="Guard no alias: for trials only.")]
Section = Annotated[list[str], typer.Option(help="A heading every model card must have.")]
PinnedRef = Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    keys = typer.Typer(no_args_is_help=True, help="Issue, list and revoke API keys.")
    keys.command("issue")(issue_key)
    keys.command("ls")(list_keys)
    keys.command("revoke")(revoke_key)
    app.add_typer(keys, name="keys")
    domains = typer.Typer(no_args_is_help=True, help="Open domains and set their policy.")
    domains.command("create")(create_domain)
    domains.command("policy")(change_policy)
    domains.command("default")(set_default)
    domains.command("ls")(list_domains)
    app.add_typer(domains, name="domain")
    bases = typer.Typer(no_args_is_help=True, help="Register base models.")
    bases.command("add")(add_base)
    bases.command("ls")(list_bases)
    app.add_typer(bases, name="base")
    app.command()(approve)
    app.command()(revoke)


def issue_key(
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    grant: Annotated[
        list[str], typer.Option(help=f"ROLE:DOMAIN, or ROLE:*; roles: {', '.join(ROLES)}.")
    ],
    expires: Annotated[str | None, typer.Option(help="UTC, like 2027-01-31T00:00:00Z.")] = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key; it is shown once.

    Example: lorary keys issue billing-app --grant infer:medical
    """
    grants = []
    for text in grant:
        role, colon, domain = text.partition(":")
        if not colon:
            raise BadRequest(f"{text!r} is no grant. Write ROLE:DOMAIN, such as infer:medical.")
        grants.append({"role": role, "domain": domain})
    body = {"name": name, "grants": grants, "expires": expires}
    with client() as registry:
        issued = registry.call("POST", "/keys", json=body)
    emit(issued, as_json, lambda: say(f"{issued['key']}\nKeep it: it is not shown again."))


def list_keys(as_json: AsJson = False) -> None:
    """List keys, without their secrets.

    Example: lorary keys ls
    """
    with client() as registry:
        keys = registry.call("GET", "/keys")
    rows = [
        [
            key["id"],
            key["name"],
            " ".join(f"{g['role']}:{g['domain']}" for g in key["grants"]),
            f"revoked: {key['revoked']}" if key["revoked"] else key["expires"] or "",
        ]
        for key in keys
    ]
    emit(keys, as_json, lambda: table(["key", "name", "grants", "until"], rows))


def revoke_key(
    key: Annotated[str, typer.Argument(help="The key's id, as `lorary keys ls` shows it.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    as_json: AsJson = False,
) -> None:
    """Let a key open nothing any more.

    Example: lorary keys revoke 1f2e3d4c5b6a --reason "laptop lost"
    """
    with client() as registry:
        revoked = registry.call("POST", f"/keys/{key}/revocation", json={"reason": reason})
    emit(revoked, as_json, lambda: say(f"Key {key} is revoked."))


def create_domain(
    domain: Annotated[str, typer.Argument(help="The domain's name.")],
    guard: Guard = ["production"],  # noqa: B006 - typer copies it
    no_guard: NoGuard = False,
    approvals: Approvals = 1,
    card_section: Section = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """Open a domain under a policy.

    Example: lorary domain create medical --approvals 2 --card-section "Intended use"
    """
    policy = _policy(guard, no_guard, approvals, card_section)
    with client() as registry:
        created = registry.call("POST", "/domains", json={"domain": domain, "policy": policy})
    emit(created, as_json, lambda: say(_describe(created)))


def change_policy(
    domain: Annotated[str, typer.Argument(help="The domain's name.")],
    guard: Guard = ["production"],  # noqa: B006 - typer copies it
    no_guard: NoGuard = False,
    approvals: Approvals = 1,
    card_section: Section = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """Replace a domain's policy; what is in production stays there.

    Example: lorary domain policy medical --guard production --approvals 2
    """
    policy = _policy(guard, no_guard, approvals, card_section)
    with client() as registry:
        changed = registry.call("PUT", f"/domains/{domain}/policy", json=policy)
    emit(changed, as_json, lambda: say(_describe(changed)))


def set_default(
    domain: Annotated[str, typer.Argument(help="The domain's name.")],
    adapter: Annotated[str, typer.Argument(help="The adapter's name within the domain.")],
    as_json: AsJson = False,
) -> None:
    """Let the domain's bare name mean one adapter.

    Example: lorary domain default medical icd10-coder
    """
    with client() as registry:
        changed = registry.call("PUT", f"/domains/{domain}/default", json={"adapter": adapter})
    emit(changed, as_json, lambda: say(f"{domain} now means {domain}/{adapter}"))


def list_domains(as_json: AsJson = False) -> None:
    """List the domains you may see.

    Example: lorary domain ls
    """
    with client() as registry:
        domains = registry.call("GET", "/domains")
    emit(domains, as_json, lambda: say("\n".join(_describe(domain) for domain in domains)))


def add_base(
    directory: Annotated[Path, typer.Argument(help="The model's safetensors checkpoint.")],
    name: Annotated[str | None, typer.Option(help="By default the directory's name.")] = None,
    known_as: Annotated[
        list[str], typer.Option(help="Another name of the very same weights.")
    ] = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """Register a base model by its modules' shapes; its weights stay where they are.

    Example: lorary base add models/llama-3-8b --known-as meta-llama/Meta-Llama-3-8B
    """
    base = BaseModel.from_directory(directory, name or directory.resolve().name, tuple(known_as))
    with client() as registry:
        added = registry.add_base(base)
    emit(added, as_json, lambda: say(f"{added['name']}: {added['modules']} linear modules"))


def list_bases(as_json: AsJson = False) -> None:
    """List the registered base models.

    Example: lorary base ls
    """
    with client() as registry:
        bases = registry.call("GET", "/bases")
    rows = [[base["name"], base["digest"][:16], ", ".join(base["known_as"])] for base in bases]
    emit(bases, as_json, lambda: table(["base model", "digest", "known as"], rows))


def approve(ref: PinnedRef, as_json: AsJson = False) -> None:
    """Vouch, as an expert, for the very bytes of a version.

    Example: lorary approve medical/icd10-coder@8
    """
    parsed = _pinned(ref)
    path = f"/adapters/{parsed.path}/versions/{parsed.version}/approvals"
    with client() as registry:
        digest = registry.resolve(ref)["digest"]
        version = registry.call("POST", path, json={"digest": digest})
    emit(version, as_json, lambda: say(f"{ref} approved by {', '.join(version['approvers'])}"))


def revoke(
    ref: PinnedRef,
    reason: Annotated[str, typer.Option(help="Why; every caller will read it.")],
    as_json: AsJson = False,
) -> None:
    """Let nobody be served a version any more.

    Example: lorary revoke medical/icd10-coder@7 --reason "wrong code for sepsis"
    """
    parsed = _pinned(ref)
    path = f"/adapters/{parsed.path}/versions/{parsed.version}/revocation"
    with client() as registry:
        version = registry.call("POST", path, json={"reason": reason})
    emit(version, as_json, lambda: say(f"{ref} is revoked."))


def _pinned(ref: str) -> AdapterRef:
    parsed = AdapterRef.parse(ref)
    if parsed.version is None:
        raise InvalidName(f"{ref!r} names no version. Write DOMAIN/ADAPTER@VERSION.")
    return parsed


def _policy(
    guard: list[str], no_guard: bool, approvals: int, card_section: list[str]
) -> dict[str, Any]:
    return {
        "guarded": [] if no_guard else guard,
        "approvals": approvals,
        "card_sections": card_section,
    }


def _describe(domain: dict[str, Any]) -> str:
    policy = domain["policy"]
    guarded = ", ".join(policy["guarded"]) or "no alias"
    return (
        f"{domain['name']}: guards {guarded}, {policy['approvals']} approval(s), "
        f"default {domain['default'] or 'not set'}"
    )
