"""The one place that reads and writes the names of adapters.

medical/icd10-coder@7            a version, immutable
medical/icd10-coder@production   an alias of the adapter, moves
medical/icd10-coder              short for @production
medical                          the domain's default adapter

Adapters are named by the rules of the Hugging Face Hub, so that its clients can name them. A
registry holds no two names that differ in case only. Tasks are named by the same rules.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from adapters.errors import InvalidName

DEFAULT_ALIAS = "production"
MAX_VERSION = 10**9

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ADAPTER = re.compile(
    rf"{_NAME.pattern}|(?!.*(?:--|\.\.|\.git\Z))[A-Za-z0-9_](?:[A-Za-z0-9._-]{{0,94}}[A-Za-z0-9_])?"
)
"""https://github.com/huggingface/huggingface_hub: `validate_repo_id`."""
_SEPARATORS = re.compile(r"[^a-z0-9]+")
MAX_READ = 200
"""Characters of a malformed name that a proposal is made of."""
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_GRAMMAR = "lower-case letters, digits and hyphens, at most 63, not starting with a hyphen"
_ADAPTERS_GRAMMAR = (
    "letters, digits, '.', '_' and '-', at most 96, without '--' and '..', not starting or ending "
    "with '.' or '-' and not ending with '.git'"
)


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """What a caller asked for: a domain, perhaps an adapter, perhaps a version or an alias.

    At most one of `version` and `alias` is set, and only if `adapter` is.
    """

    domain: str
    adapter: str | None = None
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> "AdapterRef":
        """Read a reference; raises `InvalidName` with the part that is wrong."""
        path, at, selector = text.partition("@")
        domain, slash, adapter = path.partition("/")
        check_name(domain, "domain")
        if slash:
            check_name(adapter, "adapter")
        if not at:
            return cls(domain, adapter if slash else None)
        if not slash:
            raise InvalidName(
                f"{_shown(text)} selects a version of a whole domain. "
                f"Name the adapter: DOMAIN/ADAPTER@{_shown(selector)}."
            )
        if _NUMBER.fullmatch(selector):
            number = int(selector)
            if number > MAX_VERSION:
                raise InvalidName(f"Version {number} is above {MAX_VERSION}. Check the number.")
            return cls(domain, adapter, version=number)
        check_alias(selector)
        return cls(domain, adapter, alias=selector)

    @classmethod
    def parse_version(cls, text: str) -> tuple[str, str, int]:
        """Domain, adapter and version of a pinned name; raises `InvalidName` for any other."""
        ref = cls.parse(text)
        if ref.adapter is None or ref.version is None:
            raise InvalidName(f"{_shown(text)} has no version. Write DOMAIN/ADAPTER@VERSION.")
        return ref.domain, ref.adapter, ref.version

    @property
    def path(self) -> str:
        """`domain/adapter`, or `domain` where the default adapter is meant."""
        return self.domain if self.adapter is None else f"{self.domain}/{self.adapter}"

    def pinned(self, version: int) -> "AdapterRef":
        """The same adapter at one version."""
        return AdapterRef(self.domain, self.adapter, version=version)

    def __str__(self) -> str:
        selector = self.version if self.version is not None else self.alias
        return self.path if selector is None else f"{self.path}@{selector}"


def check_name(name: str, kind: Literal["domain", "adapter", "task"]) -> str:
    """`name` itself if it is a well-formed name of that kind; else `InvalidName`."""
    rule, grammar = (_NAME, _GRAMMAR) if kind == "domain" else (_ADAPTER, _ADAPTERS_GRAMMAR)
    if not rule.fullmatch(name):
        article = "an" if kind == "adapter" else "a"
        raise InvalidName(
            f"{_shown(name)} is not {article} {kind} name. Use {grammar}{_such_as(name)}."
        )
    return name


def check_alias(name: str) -> str:
    """`name` itself if it is a well-formed alias; else `InvalidName`."""
    if not _NAME.fullmatch(name) or name.isdigit():
        raise InvalidName(
            f"{_shown(name)} is neither a version (1, 2, 3 ...) nor an alias name. "
            f"For an alias use {_GRAMMAR}, and not a number{_such_as(name)}."
        )
    return name


def proposal(name: str) -> str:
    """The well-formed name nearest to `name`, in lower case and with hyphens; empty if none is."""
    plain = unicodedata.normalize("NFKD", name[:MAX_READ]).encode("ascii", "ignore").decode()
    return _SEPARATORS.sub("-", plain.lower()).strip("-")[:63].rstrip("-")


def _such_as(name: str) -> str:
    proposed = proposal(name)
    return f", such as {proposed!r}" if proposed and not proposed.isdigit() else ""


def _shown(text: str) -> str:
    """Hostile input, quoted and cut, fit for an error message."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
