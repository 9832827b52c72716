"""The registry's verbs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import quote

import msgspec

from adapters.admission import CONFIG, OPTIONAL, REQUIRED, files_in
from adapters.base_model import BaseModel
from adapters.errors import InvalidAdapter, InvalidName
from adapters.names import DEFAULT_ALIAS, AdapterRef
from adapters.peft_config import MAX_CONFIG_BYTES, declared_base
from registry.client.connection import Connection
from registry.client.downloading import download
from registry.client.events import EventVerbs
from registry.client.progress import Progress, no_progress
from registry.client.tasks import TaskVerbs
from registry.client.uploading import describe, publish
from registry.errors import BadRequest
from registry.model.base import Command

Json: TypeAlias = "dict[str, Any]"
PARALLEL = 4
"""Connections that move one file's parts."""


class RegistryClient(EventVerbs, TaskVerbs):
    """One registry, one key. Use it as a context manager, or close it. Thread-safe."""

    def __init__(self, url: str, key: str, *, timeout: float = 60.0) -> None:
        self._connection = Connection(url, key, timeout=timeout)

    def __enter__(self) -> "RegistryClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request below `/api/v1`, for what has no verb here."""
        return self._connection.call(method, path, **arguments)

    def execute(self, command: Command) -> Json:
        """Give a command, such as `MoveAlias("medical", "icd10-coder", "production", 7)`.

        Returns the resource that the command's route names, as it is afterwards. Raises what the
        command's `decide` raises, `OutcomeUnknown` if no answer came, and `TypeError` for a command
        without a route.
        """
        method, path, body = request_of(command)
        answer: Json = self.call(method, path, json=body)
        return answer

    # Versions

    def push(
        self,
        directory: Path,
        path: str,
        *,
        base: str | None = None,
        only_adapter_files: bool = False,
        expected: int | None = None,
        parallel: int = PARALLEL,
        progress: Progress = no_progress,
    ) -> Json:
        """Publish a PEFT directory as the next version of `domain/adapter`.

        base: the registered base model; by default the one that the configuration names.
        expected: the newest version that the publisher knows (0: none); raises `VersionConflict` if
        there is another by now.
        Sends only what the registry lacks. Raises `AdmissionRefused` with every problem, and
        `StoreUnavailable` where repeating the push goes on from where it stopped.
        """
        ref = AdapterRef.parse(path)
        if ref.adapter is None or ref.version is not None or ref.alias is not None:
            raise InvalidName(f"{path!r} does not name an adapter. Write DOMAIN/ADAPTER.")
        files = [
            describe(name, directory / name)
            for name in files_in(directory)
            if not only_adapter_files or name in (*REQUIRED, *OPTIONAL)
        ]
        if not files:
            raise InvalidAdapter(f"{directory} holds no files. Name the one PEFT saved to.")
        base = base or _declared_base(directory)
        body = {"base": base, "files": [file.listed for file in files], "expected": expected}
        place = f"/adapters/{ref.path}/versions"
        return publish(self._connection, files, place, body, progress, parallel=parallel)

    def pull(
        self,
        ref: str,
        directory: Path,
        *,
        parallel: int = PARALLEL,
        progress: Progress = no_progress,
    ) -> Json:
        """Download a version's files into `directory`, each verified before it appears there."""
        version = self.resolve(ref)
        directory.mkdir(parents=True, exist_ok=True)
        for file in version["files"]:
            if Path(file["path"]).name != file["path"]:
                raise InvalidAdapter(f"{file['path']!r} leads out of {directory}. Do not use it.")
            destination = directory / file["path"]
            source = f"/files/{version['ref']}"
            download(self._connection, source, file, destination, progress, parallel=parallel)
        return version

    def resolve(self, ref: str) -> Json:
        """The version that `ref` names now, revoked or not."""
        version: Json = self.call("GET", f"/resolve/{AdapterRef.parse(ref)}")
        return version

    def requirements(self, ref: str, alias: str = DEFAULT_ALIAS) -> Json:
        """What the domain's policy asks before the guarded `alias` may name the version."""
        query = {"alias": alias}
        answer: Json = self.call("GET", f"{_version(ref)}/requirements", params=query)
        return answer

    def record_evaluation(self, ref: str, evaluation: Json) -> Json:
        """Record what an evaluation found: digest, results, calibration and the whole report."""
        version: Json = self.call("POST", f"{_version(ref)}/evaluations", json=evaluation)
        return version

    def report(self, ref: str, digest: str) -> Json:
        """The whole report of a recorded evaluation."""
        report: Json = self.call("GET", f"{_version(ref)}/evaluations/{digest}")
        return report

    # Adapters and aliases

    def adapters(self, domain: str | None = None, search: str = "") -> list[Json]:
        """Every adapter the key may see whose name holds `search`, with its newest versions."""
        query = {name: text for name, text in (("domain", domain), ("search", search)) if text}
        return self._connection.pages("/adapters", "path", **query)

    def adapter(self, path: str) -> Json:
        """One adapter: its versions, aliases, and how they moved."""
        shown: Json = self.call("GET", f"/adapters/{AdapterRef.parse(path).path}")
        return shown

    # Domains, base models, keys

    def domains(self) -> list[Json]:
        """The domains the key may see."""
        return self._connection.pages("/domains", "name")

    def domain(self, name: str) -> Json:
        """One domain: its policy and its default adapter. Raises `UnknownDomain`."""
        shown: Json = self.call("GET", f"/domains/{name}")
        return shown

    def change_policy(self, domain: str, changes: Json, *, weaken: bool = False) -> Json:
        """Change the fields of a domain's policy that `changes` names; the others stay.

        weaken: whether the change may protect less. Raises `PolicyWeakened` if it does and may not.
        """
        changed: Json = self.call(
            "PATCH", f"/domains/{domain}/policy", json=changes, params={"weaken": weaken}
        )
        return changed

    def bases(self) -> list[Json]:
        """The registered base models."""
        return self._connection.pages("/bases", "name")

    def add_base(self, base: BaseModel) -> Json:
        """Register a base model."""
        body = {
            "name": base.name,
            "digest": base.digest,
            "modules": base.modules,
            "known_as": base.known_as,
            "norms": base.norms,
        }
        added: Json = self.call("POST", "/bases", json=body)
        return added

    def keys(self) -> list[Json]:
        """The API keys, without their secrets."""
        return self._connection.pages("/keys", "id")

    def issue_key(
        self,
        name: str,
        grants: Sequence[str],
        *,
        expires: str | None = None,
        person: str | None = None,
        service: bool = False,
    ) -> Json:
        """Issue a key with grants such as `infer:medical`; the answer holds it, this once.

        person: who holds it, if not whom `name` names. service: whether a program does.
        """
        split = []
        for text in grants:
            role, colon, domain = text.partition(":")
            if not colon:
                raise BadRequest(f"{text!r} is no grant. Write ROLE:DOMAIN, like infer:medical.")
            split.append({"role": role, "domain": domain})
        body: Json = {"name": name, "grants": split, "expires": expires}
        if person is not None:
            body["person"] = person
        if service:
            body["service"] = service
        issued: Json = self.call("POST", "/keys", json=body)
        return issued

    # Expert review

    def open_review(self, review: Json) -> Json:
        """Ask experts about answers: domain, adapter, versions, title and items."""
        opened: Json = self.call("POST", "/reviews", json=review)
        return opened

    def reviews(self) -> list[Json]:
        """The reviews in the domains the key may see, the newest first."""
        return self._connection.pages("/reviews", "id")

    def review(self, review: str) -> Json:
        """How far a review is, and how far its experts agree."""
        shown: Json = self.call("GET", f"/reviews/{review}")
        return shown

    def next_item(self, review: str) -> Json:
        """The next item that waits for this key's expert, its answers in the order to judge."""
        waiting: Json = self.call("GET", f"/reviews/{review}/next")
        return waiting

    def judge(self, review: str, judgement: Json) -> Json:
        """Say, finally, what an item's answers are, in the order in which they were shown."""
        judged: Json = self.call("POST", f"/reviews/{review}/judgements", json=judgement)
        return judged

    def export_review(self, review: str, what: str) -> list[Json]:
        """What was settled: sft, preferences, label-studio or judgements."""
        rows: list[Json] = self.call("GET", f"/reviews/{review}/export", params={"what": what})
        return rows

    # History

    def log(self, after: int = 0) -> Iterator[Json]:
        """Every commit after `after`, page by page."""
        while page := self.call("GET", "/log", params={"after": after, "limit": 500}):
            yield from page
            after = page[-1]["sequence"]


def _version(ref: str) -> str:
    """The route of a pinned version; raises `InvalidName` for anything else."""
    domain, adapter, version = AdapterRef.parse_version(ref)
    return f"/adapters/{domain}/{adapter}/versions/{version}"


def _declared_base(directory: Path) -> str:
    """The base that the configuration names; the registry judges whether it is right."""
    try:
        with (directory / CONFIG).open("rb") as file:
            return declared_base(file.read(MAX_CONFIG_BYTES + 1))
    except OSError as error:
        raise InvalidAdapter(
            f"{directory} has no {CONFIG}. Name the directory that PEFT saved to."
        ) from error


def request_of(command: Command) -> tuple[str, str, Json]:
    """Method, path and body by which a command is given; fields with their defaults are left out.

    Raises `TypeError` for a command that is not given over HTTP in this way.
    """
    route = command.route
    if route is None:
        raise TypeError(f"{type(command).__name__} has no route. Use the client's own verb for it.")
    in_path = {name: quote(str(getattr(command, name)), safe="") for name in route.in_path}
    body = {
        field.name: msgspec.to_builtins(getattr(command, field.name))
        for field in msgspec.structs.fields(command)
        if field.name not in in_path and getattr(command, field.name) != field.default
    }
    return route.method, route.path.format(**in_path), body
