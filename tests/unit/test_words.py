"""Words of our own that the field says otherwise are gone from all that people read."""

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RETIRED = {
    "told": "say who does what: reports, returns, shows, refuses",
    "said": "stated, reported, given",
    r"vouch\w*": "sign, approve",
    "opinions?": "feedback from callers, judgement of experts",
    "nobody's": "no ..., not served",
    "journal": "access log, audit log",
    "bytes go": "files are deleted",
    "lots?": "set, batch",
    "names no": "specify ...",
    "foresaw": "unexpected",
    "for ever": "forever, always",
    "surely": "give the bound",
    "leash": "KL penalty, limit",
    r"outwit\w*": "exploit",
    "as ever": "unchanged",
    "calls somebody|somebody is called|whoever is called": "pages the on-call engineer",
    r"\w+-manieth": "the number of ..., counted from 1",
}
"""Words, and what is written instead."""
PATTERN = re.compile(rf"\b({'|'.join(RETIRED)})\b", re.IGNORECASE)
TEXTS = {".md", ".html", ".js", ".css", ".yaml", ".yml", ".tpl", ".txt", ".toml", ".sh"}
ELSEWHERE = (
    "CHANGELOG.md",  # lists what was renamed
    "tests/",  # names of tests are looked at below
    "benchmarks/",
    "adapters/packs/legal.py",  # law journals; lots that are drawn
    "eval/statistics/paired.py",  # cites a journal
    "eval/suites/data/",  # questions as people ask them
    "adapters/tasks/shipped/",  # data whose digests policies pin
)
NAMES = re.compile(r"def (test_\w*(?:told|said|vouch|opinion|nobodys|journal|foresaw)\w*)")


def files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.splitlines()


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text; of Python its comments and strings, but no names and keys."""
    if path.suffix in TEXTS:
        yield from enumerate(path.read_text().splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        is_name = re.fullmatch(r"""[rbfRBF]*["']+[\w.]*["']+""", token.string)
        if token.type in (tokenize.STRING, tokenize.COMMENT) and not is_name:
            text = re.sub(r"\{[^{}]*\}", "", token.string)  # expressions within f-strings
            yield from enumerate(text.splitlines(), token.start[0])


def test_retired_words_are_gone_from_documents_messages_and_comments() -> None:
    found = [
        f"{name}:{number}: {word[0]!r}: {instead_of(word[0])}"
        for name in files()
        if not name.startswith(ELSEWHERE) and Path(name).suffix in {*TEXTS, ".py"}
        for number, line in sentences(ROOT / name)
        for word in PATTERN.finditer(line)
    ]
    assert not found, "\n".join(found)


def instead_of(word: str) -> str:
    return next(f"write {use}" for old, use in RETIRED.items() if re.fullmatch(old, word, re.I))


def test_retired_words_are_gone_from_names_of_tests_and_files() -> None:
    for name in files():
        assert not PATTERN.search(Path(name).stem.replace("_", " ")), name
        if name.startswith("tests/") and name.endswith(".py"):
            assert not NAMES.findall((ROOT / name).read_text()), name


@pytest.mark.parametrize("word", ["told", "Opinions", "vouches", "nobody's", "lot"])
def test_a_retired_word_is_found(word: str) -> None:
    assert PATTERN.search(f"x {word} y")


@pytest.mark.parametrize("word", ["untold", "slot", "allotted", "nobody", "opinionated"])
def test_other_words_are_not(word: str) -> None:
    assert not PATTERN.search(f"x {word} y")
