"""Commands that decide who may do what: keys, base models, approvals, revocations."""

from pathlib import Path
from typing import Annotated

import typer

from adapters.base_model import BaseModel
from adapters.names import AdapterRef
from registry.cli.choosing import chosen
from registry.cli.output import AsJson, client, emit, progress_bar, say, table, warn
from registry.model.access import ROLES
from registry.model.keys import RevokeKey
from registry.model.versions import ApproveVersion, RevokeVersion, TombstoneVersion

PinnedRef = Annotated[str, typer.Argument(help="DOMAIN/ADAPTER@VERSION")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    keys = typer.Typer(no_args_is_help=True, help="Issue, list and revoke API keys.")
    keys.command("issue")(issue_key)
    keys.command("ls")(list_keys)
    keys.command("revoke")(revoke_key)
    app.add_typer(keys, name="key", rich_help_panel="Set up")
    bases = typer.Typer(no_args_is_help=True, help="Register base models.")
    bases.command("add")(add_base)
    bases.command("ls")(list_bases)
    app.add_typer(bases, name="base", rich_help_panel="Set up")
    app.command(rich_help_panel="Release")(approve)
    app.command(rich_help_panel="Release")(revoke)
    app.command(rich_help_panel="Govern")(delete)


def issue_key(
    name: Annotated[str, typer.Argument(help="A name for the key: who or what uses it.")],
    grant: Annotated[
        list[str], typer.Option(help=f"ROLE:DOMAIN, or ROLE:*; roles: {', '.join(ROLES)}.")
    ],
    expires: Annotated[str | None, typer.Option(help="UTC, like 2027-01-31T00:00:00Z.")] = None,
    person: Annotated[
        str | None,
        typer.Option(help="Who holds it, such as an e-mail address; by default whom NAME names."),
    ] = None,
    service: Annotated[
        bool, typer.Option("--service", help="A program holds it; it neither reviews nor approves.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Issue an API key. It is shown once. All keys of one person count as one expert.

    Example: lorary key issue billing-app --grant infer:medical
    """
    with client() as registry:
        issued = registry.issue_key(name, grant, expires=expires, person=person, service=service)
    emit(issued, as_json, lambda: say(f"{issued['key']}\nKeep it: it is not shown again."))


def list_keys(as_json: AsJson = False) -> None:
    """List API keys, without their secrets.

    Example: lorary key ls
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
    key: Annotated[str, typer.Argument(help="The key's name or id.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    as_json: AsJson = False,
) -> None:
    """Revoke an API key for good.

    Example: lorary key revoke billing-app --reason "laptop lost"
    """
    with client() as registry:
        listed = registry.keys()
        valid = [one for one in listed if not one["revoked"] or one["id"] == key]
        key_id = chosen("key", key, valid, "name", "lorary key ls")
        revoked = registry.execute(RevokeKey(key_id, reason))
    emit(revoked, as_json, lambda: say(f"Key {key} is revoked."))


def add_base(
    directory: Annotated[Path, typer.Argument(help="The model's safetensors checkpoint.")],
    name: Annotated[str | None, typer.Option(help="By default the directory's name.")] = None,
    known_as: Annotated[
        list[str], typer.Option(help="Another name of the very same weights.")
    ] = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """Register a base model by its modules' shapes. Its weights stay where they are.

    The same weights again add names (--known-as), and the norms that older versions did not record.

    Example: lorary base add models/llama-3-8b --known-as meta-llama/Meta-Llama-3-8B
    """
    name = name or directory.resolve().name
    with progress_bar(quiet=as_json, transfer=True) as progress:
        base = BaseModel.from_directory(directory, name, tuple(known_as), progress=progress)
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


def approve(
    ref: PinnedRef,
    statement: Annotated[
        str, typer.Option(help="What you looked at, and why the version may be used.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Approve a version as an expert.

    Example: lorary approve medical/icd10-coder@8 --statement "200 answers read, none harmful"
    """
    named = AdapterRef.parse_version(ref)
    with client() as registry:
        digest = registry.resolve(ref)["digest"]
        command = ApproveVersion(*named, digest, statement)
        version = registry.execute(command)
    emit(version, as_json, lambda: say(f"{ref} approved by {', '.join(version['approvers'])}"))


def revoke(
    ref: PinnedRef,
    reason: Annotated[str, typer.Option(help="Why; shown to every caller.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a version and stop serving it.

    Example: lorary revoke medical/icd10-coder@7 --reason "wrong code for sepsis"
    """
    with client() as registry:
        version = registry.execute(RevokeVersion(*AdapterRef.parse_version(ref), reason))
        shown = registry.adapter(f"{version['domain']}/{version['adapter']}")
    emit(version, as_json, lambda: say(f"{ref} is revoked."))
    for alias in shown["outages"]:
        if shown["aliases"][alias] == version["version"]:
            warn(
                f"{shown['path']}@{alias} still points to it: its callers get an error. "
                f"Move it to a version that is served: lorary alias set "
                f"{shown['path']}@VERSION {alias}"
            )


def delete(
    ref: PinnedRef,
    reason: Annotated[str, typer.Option(help="Why; shown to everyone who requests it.")],
    as_json: AsJson = False,
) -> None:
    """Delete a version's files for good; its history stays. `lorary gc --apply` frees the space.

    Example: lorary delete medical/icd10-coder@3 --reason "trained on withdrawn records"
    """
    with client() as registry:
        version = registry.execute(TombstoneVersion(*AdapterRef.parse_version(ref), reason))
    emit(version, as_json, lambda: say(f"{ref} is deleted."))
