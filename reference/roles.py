"""docs/reference/roles.md: what each role may do."""

from reference.markdown import code, table
from registry.model.access import ROLE_MEANINGS
from registry.model.base import Command
from registry.model.machine import commands


def _commands(role: str) -> str:
    return ", ".join(
        code(name)
        for name, kind in sorted(commands().items())
        if kind.role == role and kind.given_by is None and _is_fixed(kind)
    )


def _is_fixed(kind: type[Command]) -> bool:
    """Whether the role does not depend on a domain's policy."""
    return kind.needs is Command.needs


def page() -> str:
    """The page."""
    rows = [(code(role), _commands(role), meaning) for role, meaning in ROLE_MEANINGS.items()]
    return f"""# Roles

A key has roles, each in one domain or in all (`lorary key issue NAME --grant ROLE:DOMAIN`,
`ROLE:*`). [Which route takes which role](route-roles.md) is a table that a test compares with the
service.

{table(("role", "commands of the API", "may"), rows)}"""
