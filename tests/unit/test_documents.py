"""Documents: what they tell people to type exists, and links between them survive the site."""

import subprocess
from pathlib import Path

import pytest

from reference.site import outward
from tests.support.commands import commands, refusal, shown

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = ("CHANGELOG.md", "docs/reference/command-line.md", "tests/", "adapters/", "eval/")
"""What was, what test_help.py reads, and texts that are data."""


def pages() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.splitlines() if not name.startswith(ELSEWHERE)]


@pytest.mark.parametrize("page", pages())
def test_commands_in_documents_are_taken_by_the_command_line(page: str) -> None:
    found = list(shown((ROOT / page).read_text()))
    refused = {" ".join(words): refusal(words, whole=whole) for words, whole in found}
    assert not {command: why for command, why in refused.items() if why}


def test_commands_are_found_wherever_a_shell_runs_them() -> None:
    script = """
source env.sh && LORARY_KEY=$a lorary ls medical    # not this: lorary nothing
until lorary show x/y@1; do sleep 1; done
cat > file <<'END'
lorary in a file
END
key=$(lorary key issue a --grant 'serve:*' --json | python -c 'print("lorary no")')
lorary base add "$(lorary small-model)" \\
  --name small > out.txt &
"""
    found = sorted(commands(script))
    assert found == [
        ["lorary", "base", "add", "$(lorary small-model)", "--name", "small"],
        ["lorary", "key", "issue", "a", "--grant", "serve:*", "--json"],
        ["lorary", "ls", "medical"],
        ["lorary", "show", "x/y@1"],
        ["lorary", "small-model"],
    ]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("lorary tombstones x", "no such command"),
        ("lorary key issues", "no such command"),
        ("lorary eval x/y@1 --retries 3", "No such option"),
        ("lorary push out", "Missing argument"),
        ("lorary eval x/y@1 --n many", "a valid integer"),
    ],
)
def test_a_command_that_does_not_exist_is_refused(command: str, why: str) -> None:
    assert why in refusal(command.split())


def test_links_out_of_the_documents_lead_to_the_repository() -> None:
    text = "[a](../../helm/x.md#y) [b](../glossary.md) [c](https://e.org) [d](../../LICENSE)"
    assert outward(text, "how-to/operate.md", "https://r.org") == (
        "[a](https://r.org/blob/main/helm/x.md#y) [b](../glossary.md) [c](https://e.org) "
        "[d](https://r.org/blob/main/LICENSE)"
    )
