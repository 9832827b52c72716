"""Commands about domains: create them, show and change their policies."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import yaml

from adapters.plain_yaml import InvalidYaml, load_yaml
from registry.cli.output import AsJson, client, emit, say, warn
from registry.cli.task_rules import pinned
from registry.errors import BadRequest
from registry.model.domains import CreateDomain, SetDefaultAdapter
from registry.model.policies import Policy, differences, merged, weakened

Guard = Annotated[
    list[str], typer.Option(help="An alias that moves only by approval; --no-guard for none.")
]
Approvals = Annotated[int, typer.Option(min=0, help="Approvals that a guarded alias requires.")]
NoGuard = Annotated[bool, typer.Option("--no-guard", help="Guard no alias: for trials only.")]
Section = Annotated[list[str], typer.Option(help="A heading every model card must have.")]
GuardedRole = Annotated[str, typer.Option(help="The role that may move a guarded alias.")]
Keep = Annotated[
    int | None, typer.Option(min=1, help="Newest versions that gc keeps; by default all.")
]
Signer = Annotated[
    list[Path], typer.Option(exists=True, help="PEM file of a public key whose signature counts.")
]
RequireSignature = Annotated[
    bool, typer.Option("--require-signature", help="Refuse versions that no signer signed.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    domains = typer.Typer(
        no_args_is_help=True, help="Create domains, and show or change their policies."
    )
    domains.command("create")(create_domain)
    domains.command("policy")(change_policy)
    domains.command("default")(set_default)
    domains.command("ls")(list_domains)
    app.add_typer(domains, name="domain", rich_help_panel="Set up")


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
    """Create a domain with a policy.

    Example: lorary domain create medical --approvals 2 --card-section "Intended use"
    """
    policy = Policy(
        guarded=() if no_guard else tuple(guard),
        guarded_role=guarded_role,
        approvals=approvals,
        card_sections=tuple(card_section),
        keep=keep,
        signers=tuple(path.read_text() for path in signer),
        signature_required=require_signature,
    )
    with client() as registry:
        created = registry.execute(CreateDomain(domain, policy))
    emit(created, as_json, lambda: say(_describe(created)))


def change_policy(
    domain: Annotated[str, typer.Argument(help="The domain's name.")],
    file: Annotated[
        Path | None, typer.Argument(exists=True, help="Fields to change, as YAML.")
    ] = None,
    assignments: Annotated[
        list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Change one field; YAML.")
    ] = [],  # noqa: B006 - typer copies it
    guard: Annotated[
        list[str] | None, typer.Option(help="An alias that moves only by approval.")
    ] = None,
    no_guard: NoGuard = False,
    guarded_role: Annotated[
        str | None, typer.Option(help="The role that may move a guarded alias.")
    ] = None,
    approvals: Annotated[
        int | None, typer.Option(min=0, help="Approvals that a guarded alias requires.")
    ] = None,
    card_section: Annotated[
        list[str] | None, typer.Option(help="A heading every model card must have.")
    ] = None,
    keep: Keep = None,
    signer: Annotated[
        list[Path] | None,
        typer.Option(exists=True, help="PEM file of a public key whose signature counts."),
    ] = None,
    require_signature: Annotated[
        bool | None, typer.Option(help="Whether versions must be signed by a signer.")
    ] = None,
    edit: Annotated[bool, typer.Option("--edit", help="Change it in your $EDITOR.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Weaken the policy without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a domain's policy, or change fields of it. Other fields stay as they are.

    Prints each difference before it is applied. A change that protects less (fewer approvals, a
    suite removed, ...) asks for confirmation, takes --yes in scripts, and is marked in the log.

    Example: lorary domain policy medical

    Example: lorary domain policy medical --approvals 2 --set max_report_days=30

    Example: lorary domain policy medical policy.yaml

    Example: lorary domain policy radiology --set 'suites=[{task: modality@2}]'

    Example: lorary domain policy medical --edit
    """
    flags = {
        "guarded": [] if no_guard else guard,
        "guarded_role": guarded_role,
        "approvals": approvals,
        "card_sections": card_section,
        "keep": keep,
        "signers": None if signer is None else [path.read_text() for path in signer],
        "signature_required": require_signature,
    }
    changes = read_policy(file) if file is not None else {}
    changes |= dict(map(_assignment, assignments))
    changes |= {name: value for name, value in flags.items() if value is not None}
    with client() as registry:
        shown = registry.domain(domain)
        if edit:
            edited = in_editor(_as_yaml(shown["policy"] | changes))
            changes |= parse_policy(edited, "The edited policy")
        changes = pinned(changes, registry, domain)
        if changes:
            old = msgspec.convert(shown["policy"], Policy)
            new = merged(old, changes)
            weaker = weakened(old, new)
            for name, (before, after) in differences(old, new).items():
                mark = "  (protects less)" if name in weaker else ""
                warn(f"{name}: {json.dumps(before)} -> {json.dumps(after)}{mark}")
            if weaker and not yes:
                _confirm(domain)
            shown = registry.change_policy(domain, changes, weaken=bool(weaker))
    emit(shown, as_json, lambda: say(_as_yaml(shown["policy"]).rstrip()))


def in_editor(text: str) -> str:
    """What somebody made of `text` in the editor that VISUAL or EDITOR names."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w+", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        try:
            done = subprocess.run([*shlex.split(editor), file.name], check=False)
        except OSError as error:
            raise BadRequest(f"{editor[:60]!r} cannot be started. Set EDITOR.") from error
        if done.returncode:
            raise BadRequest(f"{editor[:60]!r} ended with {done.returncode}. Nothing was changed.")
        return Path(file.name).read_text("utf-8")


def _as_yaml(policy: dict[str, Any]) -> str:
    return str(yaml.safe_dump(policy, sort_keys=False))


def _assignment(text: str) -> tuple[str, Any]:
    """`FIELD=VALUE` as a field and its value; raises `BadRequest`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise BadRequest(f"Invalid --set {text!r}. Write FIELD=VALUE, like approvals=2.")
    return name, parse_yaml(value, f"--set {name}")


def _confirm(domain: str) -> None:
    """Ask whether the policy may be weakened; in a script refuse and name --yes."""
    question = f"Weaken the policy of {domain}?"
    if not sys.stdin.isatty():
        raise BadRequest(f"{question} Repeat the command with --yes.")
    typer.confirm(question, abort=True, err=True)


def set_default(
    domain: Annotated[str, typer.Argument(help="The domain's name.")],
    adapter: Annotated[str, typer.Argument(help="The adapter's name within the domain.")],
    as_json: AsJson = False,
) -> None:
    """Set a domain's default adapter: what the domain's bare name means.

    Example: lorary domain default medical icd10-coder
    """
    with client() as registry:
        changed = registry.execute(SetDefaultAdapter(domain, adapter))
    emit(changed, as_json, lambda: say(f"{domain} now means {domain}/{adapter}"))


def list_domains(as_json: AsJson = False) -> None:
    """List domains and their policies in short.

    Example: lorary domain ls
    """
    with client() as registry:
        domains = registry.domains()
    emit(domains, as_json, lambda: say("\n".join(_describe(domain) for domain in domains)))


def read_policy(file: Path) -> dict[str, Any]:
    """The fields of a policy that a YAML file names. Raises `BadRequest`."""
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{file} is not UTF-8 text. Correct it.") from error
    return parse_policy(text, str(file))


def parse_policy(text: str, where: str) -> dict[str, Any]:
    """The fields of a policy that YAML names. Raises `BadRequest` that names `where` it stands."""
    policy = parse_yaml(text, where)
    if not isinstance(policy, dict):
        raise BadRequest(
            f"{where} holds no policy. Write `approvals: 2`, `suites: [...]` and so on."
        )
    return policy


def parse_yaml(text: str, where: str) -> Any:
    """`text` as YAML; raises `BadRequest` that names `where` it stands."""
    try:
        return load_yaml(text)
    except InvalidYaml as error:
        raise BadRequest(f"{where}: {error.message}") from error


def _describe(domain: dict[str, Any]) -> str:
    policy = domain["policy"]
    guarded = ", ".join(policy["guarded"]) or "no alias"
    return (
        f"{domain['name']}: guards {guarded}, {policy['approvals']} approval(s), "
        f"{len(policy['suites'])} required suite(s), "
        f"default {domain['default'] or 'not set'}"
    )
