"""The registry's verbs."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import msgspec

from adapters.admission import CONFIG, OPTIONAL, REQUIRED, files_in
from adapters.base_model import BaseModel
from adapters.errors import InvalidAdapter, InvalidName
from adapters.names import DEFAULT_ALIAS, AdapterRef
from adapters.peft_config import MAX_CONFIG_BYTES, declared_base
from registry.client.connection import Connection
from registry.client.downloading import download
from registry.client.progress import Progress, no_progress
from registry.client.uploading import ATTEMPTS, describe, upload
from registry.errors import BadRequest, BeingCollected, ContentMissing
from registry.model.opinions import Category, Rating
from registry.model.trials import BoundName, Bounds, Evidence

Json: TypeAlias = "dict[str, Any]"
DEFAULT_BOUNDS = Bounds()
PARALLEL = 4
"""Connections that move one file's parts."""


class RegistryClient:
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
        for attempt in range(ATTEMPTS):
            upload(self._connection, files, progress, parallel=parallel)
            try:
                version: Json = self.call(
                    "POST", f"/adapters/{ref.path}/versions", json=body, timeout=600
                )
            except (ContentMissing, BeingCollected):
                # Garbage was collected between the two: what went is sent again.
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.5 * 2**attempt)
            else:
                return version
        raise AssertionError("the last attempt returned or raised")

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
            download(
                self._connection, version["ref"], file, destination, progress, parallel=parallel
            )
        return version

    def resolve(self, ref: str) -> Json:
        """The version that `ref` names now, revoked or not."""
        version: Json = self.call("GET", f"/resolve/{AdapterRef.parse(ref)}")
        return version

    def approve(self, ref: str, digest: str) -> Json:
        """Vouch, as an expert, for exactly the bytes with `digest`."""
        version: Json = self.call("POST", f"{_version(ref)}/approvals", json={"digest": digest})
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

    def revoke(self, ref: str, reason: str) -> Json:
        """Let nobody be served the version any more."""
        version: Json = self.call("POST", f"{_version(ref)}/revocation", json={"reason": reason})
        return version

    def tombstone(self, ref: str, reason: str) -> Json:
        """Give up a version's bytes for good; its place in the log stays."""
        version: Json = self.call("POST", f"{_version(ref)}/tombstone", json={"reason": reason})
        return version

    # Adapters and aliases

    def adapters(self, domain: str | None = None, search: str = "") -> list[Json]:
        """Every adapter the key may see whose name holds `search`."""
        query = {name: text for name, text in (("domain", domain), ("search", search)) if text}
        listed: list[Json] = self.call("GET", "/adapters", params=query)
        return listed

    def adapter(self, path: str) -> Json:
        """One adapter: its versions, aliases, and how they moved."""
        shown: Json = self.call("GET", f"/adapters/{AdapterRef.parse(path).path}")
        return shown

    def move_alias(
        self, path: str, alias: str, version: int, *, expected: int | None = None
    ) -> Json:
        """Let `alias` of `domain/adapter` name `version`."""
        body = {"version": version, "expected": expected}
        moved: Json = self.call("PUT", f"/adapters/{path}/aliases/{alias}", json=body)
        return moved

    def split_alias(
        self,
        path: str,
        alias: str,
        candidate: int,
        percent: int,
        *,
        bounds: Bounds | None = DEFAULT_BOUNDS,
    ) -> Json:
        """Let `percent` of the alias's callers get version `candidate`; 0 ends it.

        The split ends by itself if the candidate crosses one of the bounds; None for no bounds.
        """
        body = {
            "candidate": candidate,
            "percent": percent,
            "bounds": msgspec.to_builtins(bounds),
        }
        split: Json = self.call("PUT", f"/adapters/{path}/aliases/{alias}/split", json=body)
        return split

    # What replicas report

    def roll_back(
        self,
        path: str,
        alias: str,
        *,
        candidate: int,
        split: int,
        bound: BoundName,
        evidence: Evidence,
    ) -> Json:
        """End a split whose candidate crossed a bound. Safe to repeat. It takes the role serve."""
        arms = {
            side: {
                "requests": arm.requests,
                "errors": arm.errors,
                "first_token_p95": arm.first_token_p95,
            }
            for side, arm in (("candidate", evidence.candidate), ("stable", evidence.stable))
        }
        seen = {**arms, "compared": evidence.compared, "slower": evidence.slower}
        body = {"candidate": candidate, "split": split, "bound": bound, "evidence": seen}
        route = f"/adapters/{path}/aliases/{alias}/split/rollback"
        ended: Json = self.call("POST", route, json=body)
        return ended

    def give_feedback(
        self,
        ref: str,
        response: str,
        rating: Rating,
        *,
        answered: int,
        asker: str,
        category: Category | None = None,
        comment: str | None = None,
        alias: str | None = None,
        split: int = 0,
    ) -> Json:
        """Tell what `asker` thought of an answer of the pinned version `ref`. Safe to repeat. It
        takes the role serve. alias, split: the split that chose the version, if one did."""
        body = {
            "response": response,
            "answered": answered,
            "asker": asker,
            "rating": rating,
            "category": category,
            "comment": comment,
            "alias": alias,
            "split": split,
        }
        kept: Json = self.call("POST", f"{_version(ref)}/feedback", json=body)
        return kept

    # Domains, base models, keys

    def domains(self) -> list[Json]:
        """The domains the key may see."""
        listed: list[Json] = self.call("GET", "/domains")
        return listed

    def create_domain(self, domain: str, policy: Json) -> Json:
        """Open a domain under a policy."""
        body = {"domain": domain, "policy": policy}
        created: Json = self.call("POST", "/domains", json=body)
        return created

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

    def set_default(self, domain: str, adapter: str) -> Json:
        """Let the domain's bare name mean one adapter."""
        changed: Json = self.call("PUT", f"/domains/{domain}/default", json={"adapter": adapter})
        return changed

    def bases(self) -> list[Json]:
        """The registered base models."""
        listed: list[Json] = self.call("GET", "/bases")
        return listed

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
        listed: list[Json] = self.call("GET", "/keys")
        return listed

    def issue_key(self, name: str, grants: Sequence[str], *, expires: str | None = None) -> Json:
        """Issue a key with grants such as `infer:medical`; the answer holds it, this once."""
        split = []
        for text in grants:
            role, colon, domain = text.partition(":")
            if not colon:
                raise BadRequest(f"{text!r} is no grant. Write ROLE:DOMAIN, like infer:medical.")
            split.append({"role": role, "domain": domain})
        body = {"name": name, "grants": split, "expires": expires}
        issued: Json = self.call("POST", "/keys", json=body)
        return issued

    def revoke_key(self, key: str, reason: str) -> Json:
        """Let a key open nothing any more."""
        revoked: Json = self.call("POST", f"/keys/{key}/revocation", json={"reason": reason})
        return revoked

    # Expert review

    def open_review(self, review: Json) -> Json:
        """Ask experts about answers: domain, adapter, versions, title and items."""
        opened: Json = self.call("POST", "/reviews", json=review)
        return opened

    def reviews(self) -> list[Json]:
        """The reviews in the domains the key may see, the newest first."""
        listed: list[Json] = self.call("GET", "/reviews")
        return listed

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

    def close_review(self, review: str) -> Json:
        """Let nobody judge it any more."""
        closed: Json = self.call("POST", f"/reviews/{review}/closing")
        return closed

    def erase_review(self, review: str) -> Json:
        """Give up the texts of a closed review."""
        erased: Json = self.call("POST", f"/reviews/{review}/erasure")
        return erased

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
    parsed = AdapterRef.parse(ref)
    if parsed.version is None:
        raise InvalidName(f"{ref!r} names no version. Write DOMAIN/ADAPTER@VERSION.")
    return f"/adapters/{parsed.path}/versions/{parsed.version}"


def _declared_base(directory: Path) -> str:
    """The base that the configuration names; the registry judges whether it is right."""
    try:
        with (directory / CONFIG).open("rb") as file:
            return declared_base(file.read(MAX_CONFIG_BYTES + 1))
    except OSError as error:
        raise InvalidAdapter(
            f"{directory} has no {CONFIG}. Name the directory that PEFT saved to."
        ) from error
