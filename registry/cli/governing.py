"""Commands that say who may do what: keys, domains, base models, approvals, revocations."""

from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.base_model import BaseModel
from registry.access import ROLES
from registry.cli.evidence import read_policy
from registry.cli.output import AsJson, client, emit, say, table

Guard = Annotated[
    list[str], typer.Option(help="An alias that moves only by approval; --no-guard for none.")
]
Approvals = Annotated[int, typer.Option(min=0, help="Approvals that a guarded alias takes.")]
NoGuard = Annotated[bool, typer.Option("--no-guard", help="Guard no alias: for trials only.")]
Section = Annotated[list[str], typer.Option(help="A heading every model card must have.")]
GuardedRole = Annotated[
    str, typer.Option(help="The role in the domain that moving a guarded alias takes.")
]
Keep = Annotated[
    int | None, typer.Option(min=1, help="Newest versions that gc keeps; by default all.")
]
Signer = Annotated[
    list[Path], typer.Option(exists=True, help="PEM file of a public key whose signature counts.")
]
RequireSignature = Annotated[
    bool, typer.Option("--require-signature", help="Refuse versions that no signer signed.")
]
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
    app.command()(tombstone)


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
    with client() as registry:
        issued = registry.issue_key(name, grant, expires=expires)
    emit(issued, as_json, lambda: say(f"{issued['key']}\nKeep it: it is not shown again."))


def list_keys(as_json: AsJson = False) -> None:
    """List keys, without their secrets.

    Example: lorary keys ls
    """
    with client() as registry:
        keys = registry.keys()
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
        revoked = registry.revoke_key(key, reason)
    emit(revoked, as_json, lambda: say(f"Key {key} is revoked."))


def create_domain(
    domain: Annotated[str, typer.Argument(help="The domain's name.")],
    guard: Guard = ["production"],  # noqa: B006 - typer copies it
    no_guard: NoGuard = False,
    guarded_role: GuardedRole = "publish",
    approvals: Approvals = 1,
    card_section: Section = [],  # noqa: B006 - typer copies it
    keep: Keep = None,
    signer: Signer = [],  # noqa: B006 - typer copies it
    require_signature: RequireSignature = False,
    as_json: AsJson = False,
) -> None:
    """Open a domain under a policy.

    Example: lorary domain create medical --approvals 2 --card-section "Intended use"
    """
    policy = _policy(
        guarded=[] if no_guard else guard,
        guarded_role=guarded_role,
        approvals=approvals,
        card_sections=card_section,
        keep=keep,
        signers=signer,
        signature_required=require_signature,
    )
    with client() as registry:
        created = registry.create_domain(domain, policy)
    emit(created, as_json, lambda: say(_describe(created)))


def change_policy(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="The domain's name.")],
    file: Annotated[
        Path | None, typer.Argument(exists=True, help="The whole policy as YAML, instead of flags.")
    ] = None,
    guard: Guard = ["production"],  # noqa: B006 - typer copies it
    no_guard: NoGuard = False,
    guarded_role: GuardedRole = "publish",
    approvals: Approvals = 1,
    card_section: Section = [],  # noqa: B006 - typer copies it
    keep: Keep = None,
    signer: Signer = [],  # noqa: B006 - typer copies it
    require_signature: RequireSignature = False,
    as_json: AsJson = False,
) -> None:
    """Replace a domain's policy; what is in production stays there.

    Evaluations that a version must pass are written in a file: `lorary suites policy` begins one.

    Example: lorary domain policy medical --guard production --approvals 2

    Example: lorary domain policy medical policy.yaml
    """
    if file is not None:
        policy = read_policy(file, context)
    else:
        policy = _policy(
            guarded=[] if no_guard else guard,
            guarded_role=guarded_role,
            approvals=approvals,
            card_sections=card_section,
            keep=keep,
            signers=signer,
            signature_required=require_signature,
        )
    with client() as registry:
        changed = registry.change_policy(domain, policy)
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
        changed = registry.set_default(domain, adapter)
    emit(changed, as_json, lambda: say(f"{domain} now means {domain}/{adapter}"))


def list_domains(as_json: AsJson = False) -> None:
    """List the domains you may see.

    Example: lorary domain ls
    """
    with client() as registry:
        domains = registry.domains()
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
        bases = registry.bases()
    rows = [[base["name"], base["digest"][:16], ", ".join(base["known_as"])] for base in bases]
    emit(bases, as_json, lambda: table(["base model", "digest", "known as"], rows))


def approve(ref: PinnedRef, as_json: AsJson = False) -> None:
    """Vouch, as an expert, for the very bytes of a version.

    Example: lorary approve medical/icd10-coder@8
    """
    with client() as registry:
        version = registry.approve(ref, registry.resolve(ref)["digest"])
    emit(version, as_json, lambda: say(f"{ref} approved by {', '.join(version['approvers'])}"))


def revoke(
    ref: PinnedRef,
    reason: Annotated[str, typer.Option(help="Why; every caller will read it.")],
    as_json: AsJson = False,
) -> None:
    """Let nobody be served a version any more.

    Example: lorary revoke medical/icd10-coder@7 --reason "wrong code for sepsis"
    """
    with client() as registry:
        version = registry.revoke(ref, reason)
    emit(version, as_json, lambda: say(f"{ref} is revoked."))


def tombstone(
    ref: PinnedRef,
    reason: Annotated[str, typer.Option(help="Why; whoever asks for it will read it.")],
    as_json: AsJson = False,
) -> None:
    """Give up a version's bytes for good; `lorary gc --apply` then removes them.

    Example: lorary tombstone medical/icd10-coder@3 --reason "trained on withdrawn records"
    """
    with client() as registry:
        version = registry.tombstone(ref, reason)
    emit(version, as_json, lambda: say(f"{ref} is no longer kept."))


def _policy(
    *,
    guarded: list[str],
    guarded_role: str,
    approvals: int,
    card_sections: list[str],
    keep: int | None,
    signers: list[Path],
    signature_required: bool,
) -> dict[str, Any]:
    return {
        "guarded": guarded,
        "guarded_role": guarded_role,
        "approvals": approvals,
        "card_sections": card_sections,
        "keep": keep,
        "signers": [path.read_text() for path in signers],
        "signature_required": signature_required,
    }


def _describe(domain: dict[str, Any]) -> str:
    policy = domain["policy"]
    guarded = ", ".join(policy["guarded"]) or "no alias"
    return (
        f"{domain['name']}: guards {guarded}, {policy['approvals']} approval(s), "
        f"{len(policy['suites'])} required suite(s), "
        f"default {domain['default'] or 'not set'}"
    )
