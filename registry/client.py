"""A registry's service from Python, with the same verbs as the command line.

    with RegistryClient("http://127.0.0.1:8100", key) as registry:
        version = registry.push(Path("out/icd10-coder"), "medical/icd10-coder")

Every refusal arrives as the class that `registry.errors` has for it. Pushing is safe to repeat.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from adapters.admission import OPTIONAL, REQUIRED, Problem, files_in
from adapters.base_model import BaseModel
from adapters.errors import InvalidAdapter, InvalidName, LoraryError
from adapters.names import AdapterRef
from registry import errors
from registry.errors import AdmissionRefused, DigestMismatch, StoreUnavailable

Progress = Callable[[str, int, int], None]
"""Called with a file's name, how many of its bytes are done, and how many there are."""

_PIECE = 1 << 20


def _no_progress(_name: str, _done: int, _total: int) -> None:
    """Tell nobody."""


class RemoteError(LoraryError):
    """A refusal that has no class of its own here."""

    code = "remote_error"


class RegistryClient:
    """One registry, one key. Use it as a context manager, or close it."""

    def __init__(self, url: str, key: str, *, timeout: float = 60.0) -> None:
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout,
        )

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
        self._http.close()

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request below `/api/v1`; its JSON answer. Raises the registry's error."""
        try:
            reply = self._http.request(method, path, **arguments)
        except httpx.TransportError as error:
            raise StoreUnavailable(
                f"The registry at {self._http.base_url} does not answer ({error}). "
                "Start it (lorary serve-registry), or set LORARY_REGISTRY_URL."
            ) from error
        if reply.is_error:
            raise _error(reply)
        return reply.json() if reply.content else None

    def push(
        self,
        directory: Path,
        path: str,
        *,
        base: str | None = None,
        only_adapter_files: bool = False,
        progress: Progress = _no_progress,
    ) -> dict[str, Any]:
        """Publish a PEFT directory as the next version of `domain/adapter`.

        base: the registered base model; by default the one that the configuration names.
        Uploads only what the registry lacks. Raises `AdmissionRefused` with every problem.
        """
        ref = AdapterRef.parse(path)
        if ref.adapter is None or ref.version is not None or ref.alias is not None:
            raise InvalidName(f"{path!r} does not name an adapter. Write DOMAIN/ADAPTER.")
        listed = []
        for name, file in files_in(directory).items():
            if only_adapter_files and name not in (*REQUIRED, *OPTIONAL):
                continue
            with (directory / name).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            listed.append({"path": name, "size": file.size, "sha256": digest})
        if not listed:
            raise InvalidAdapter(f"{directory} holds no files. Name the one PEFT saved to.")
        base = base or _declared_base(directory)
        wanted = self.call("POST", "/uploads", json={"sha256": [f["sha256"] for f in listed]})
        for file_ in listed:
            if file_["sha256"] in wanted["missing"]:
                self._upload(directory / str(file_["path"]), file_, progress)
        body = {"base": base, "files": listed}
        version: dict[str, Any] = self.call("POST", f"/adapters/{ref.path}/versions", json=body)
        return version

    def pull(
        self, ref: str, directory: Path, *, progress: Progress = _no_progress
    ) -> dict[str, Any]:
        """Download a version's files into `directory`, each verified before it appears there."""
        version = self.resolve(ref)
        directory.mkdir(parents=True, exist_ok=True)
        for file in version["files"]:
            self._download(version["ref"], file, directory / file["path"], progress)
        return version

    def resolve(self, ref: str) -> dict[str, Any]:
        """The version that `ref` names now."""
        version: dict[str, Any] = self.call("GET", f"/resolve/{AdapterRef.parse(ref)}")
        return version

    def adapters(self, domain: str | None = None) -> list[dict[str, Any]]:
        """Every adapter the key may see."""
        query = {} if domain is None else {"domain": domain}
        listed: list[dict[str, Any]] = self.call("GET", "/adapters", params=query)
        return listed

    def add_base(self, base: BaseModel) -> dict[str, Any]:
        """Register a base model."""
        body = {
            "name": base.name,
            "digest": base.digest,
            "modules": base.modules,
            "known_as": base.known_as,
        }
        added: dict[str, Any] = self.call("POST", "/bases", json=body)
        return added

    def move_alias(
        self, path: str, alias: str, version: int, *, expected: int | None = None
    ) -> dict[str, Any]:
        """Let `alias` of `domain/adapter` name `version`."""
        body = {"version": version, "expected": expected}
        moved: dict[str, Any] = self.call("PUT", f"/adapters/{path}/aliases/{alias}", json=body)
        return moved

    def log(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """Every commit after `after`, page by page."""
        while page := self.call("GET", "/log", params={"after": after, "limit": 500}):
            yield from page
            after = page[-1]["sequence"]

    def _upload(self, path: Path, file: dict[str, Any], progress: Progress) -> None:
        def pieces() -> Iterator[bytes]:
            done = 0
            with path.open("rb") as stream:
                while piece := stream.read(_PIECE):
                    yield piece
                    done += len(piece)
                    progress(file["path"], done, file["size"])

        headers = {"Content-Length": str(file["size"])}
        self.call("PUT", f"/blobs/{file['sha256']}", content=pieces(), headers=headers)

    def _download(
        self, ref: str, file: dict[str, Any], destination: Path, progress: Progress
    ) -> None:
        hashing, done = hashlib.sha256(), 0
        descriptor, name = tempfile.mkstemp(dir=destination.parent, prefix=".pull-")
        temporary = Path(name)
        try:
            with (
                os.fdopen(descriptor, "wb") as out,
                self._http.stream("GET", f"/files/{ref}", params={"path": file["path"]}) as reply,
            ):
                if reply.is_error:
                    reply.read()
                    raise _error(reply)
                for piece in reply.iter_bytes(_PIECE):
                    hashing.update(piece)
                    out.write(piece)
                    done += len(piece)
                    progress(file["path"], done, file["size"])
            if hashing.hexdigest() != file["sha256"]:
                raise DigestMismatch(f"{file['path']} arrived damaged. Pull it again.")
            temporary.chmod(0o644)
            temporary.replace(destination)
        except httpx.TransportError as error:
            raise StoreUnavailable(f"The download of {file['path']} broke off. Retry.") from error
        finally:
            temporary.unlink(missing_ok=True)


def _declared_base(directory: Path) -> str:
    """The base that the configuration names; the registry judges whether it is right."""
    try:
        config = json.loads((directory / "adapter_config.json").read_bytes()[: 1 << 20])
        declared = config["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidAdapter(
            f"{directory} has no adapter_config.json that names a base model. Give --base NAME."
        ) from error
    return str(declared)


def _error(reply: httpx.Response) -> LoraryError:
    """The error class that the answer's code names."""
    try:
        body = reply.json()["error"]
        code, message = str(body["code"]), str(body["message"])
    except (ValueError, KeyError, TypeError):
        return RemoteError(f"The registry answered {reply.status_code}. Look at its log.")
    if code == AdmissionRefused.code:
        return AdmissionRefused([Problem(**problem) for problem in body["problems"]])
    return _rebuild(_BY_CODE.get(code, RemoteError), message)


def _rebuild(kind: type[LoraryError], message: str) -> LoraryError:
    """An error of that class with the very message, whatever its constructor takes."""
    error = kind.__new__(kind, message)
    Exception.__init__(error, message)
    return error


_BY_CODE: dict[str, type[LoraryError]] = {
    kind.code: kind
    for kind in (*vars(errors).values(), InvalidAdapter, InvalidName)
    if isinstance(kind, type) and issubclass(kind, LoraryError)
}
