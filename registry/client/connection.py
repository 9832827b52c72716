"""One authenticated connection to a registry's service, and its errors as classes."""

from typing import Any

import httpx

from adapters.admission import Problem
from adapters.errors import InvalidAdapter, InvalidName, LoraryError
from registry import errors
from registry.errors import AdmissionRefused, OutcomeUnknown, StoreUnavailable

PREFIX = "/api/v1"
PAGE = 1000
"""Entries of a full page of a listing."""


GATEWAY_ERRORS = (502, 503, 504)
"""Statuses of a proxy before the registry that got no answer from it."""
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Errors before the first byte of a request was sent."""


class RemoteError(LoraryError):
    """A refusal that has no class of its own here."""

    code = "remote_error"


class Connection:
    """Requests below `/api/v1` with one key; safe to use from several threads."""

    def __init__(self, url: str, key: str, *, timeout: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise errors.BadRequest(
                f"Invalid registry URL {url[:100]!r}. Set LORARY_REGISTRY_URL to http://HOST:PORT."
            )
        self.url = url.rstrip("/")
        certificates = httpx.create_ssl_context()  # reading them takes longer than a request
        self.http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout,
            follow_redirects=True,
            verify=certificates,
        )
        self.store = httpx.Client(timeout=timeout, verify=certificates)
        """For presigned requests: no key of ours goes to the bucket."""

    def close(self) -> None:
        """Close the connections."""
        self.http.close()
        self.store.close()

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request below `/api/v1`; its JSON answer.

        Raises the registry's error; `StoreUnavailable` if the request did not reach it or only
        asked; and `OutcomeUnknown` if a request that changes something got no answer: it may have
        been carried out.
        """
        try:
            reply = self.http.request(method, PREFIX + path, **arguments)
        except httpx.TransportError as error:
            if method == "GET" or isinstance(error, _NEVER_SENT):
                raise self.silent(error) from error
            raise OutcomeUnknown(
                f"The registry at {self.url} did not answer ({_described(error)}): the change may "
                "have been made. Look (`lorary log`) before you repeat it."
            ) from error
        check(reply)
        try:
            return reply.json() if reply.content else None
        except ValueError as error:
            raise RemoteError(
                f"{self.url} answered with something that is not JSON, so it is no registry. "
                "Correct LORARY_REGISTRY_URL."
            ) from error

    def pages(self, path: str, name: str, **query: str) -> list[dict[str, Any]]:
        """All pages of a listing, whose entries are identified by their field `name`."""
        listed: list[dict[str, Any]] = self.call("GET", path, params=query)
        page = listed
        while len(page) >= PAGE:
            page = self.call("GET", path, params={**query, "after": page[-1][name]})
            listed += page
        return listed

    def silent(self, error: httpx.TransportError) -> StoreUnavailable:
        """What to tell when no answer came."""
        return StoreUnavailable(
            f"The registry at {self.url} does not answer ({_described(error)}). "
            "Start it (lorary serve-registry), or set LORARY_REGISTRY_URL."
        )


def _described(error: httpx.TransportError) -> str:
    """A timeout often has no text of its own."""
    return str(error) or type(error).__name__


def check(reply: httpx.Response) -> None:
    """Raise the error that a registry's answer names, if it is one.

    Raises `StoreUnavailable`, or `OutcomeUnknown` for a request that changes something, if a proxy
    says that the registry did not answer.
    """
    if not reply.is_error:
        return
    reply.read()
    try:
        body = reply.json()["error"]
        code, message = str(body["code"]), str(body["message"])
    except (ValueError, KeyError, TypeError) as error:
        raise _without_envelope(reply) from error
    if code == AdmissionRefused.code:
        raise AdmissionRefused([Problem(**problem) for problem in body["problems"]])
    raise _rebuild(_BY_CODE.get(code, RemoteError), message)


def _without_envelope(reply: httpx.Response) -> LoraryError:
    """The error for an answer that is not a registry's own, such as one of a proxy before it."""
    status = reply.status_code
    if status not in GATEWAY_ERRORS:
        return RemoteError(f"The registry answered {status}. Look at its log.")
    if reply.request.method == "GET":
        return StoreUnavailable(f"The registry does not answer ({status} of a proxy). Retry.")
    return OutcomeUnknown(
        f"The registry did not answer ({status} of a proxy): the change may have been made. Look "
        "(`lorary log`) before you repeat it."
    )


def check_bucket(reply: httpx.Response) -> None:
    """Raise `StoreUnavailable` for a bucket's error: its XML is for machines, its status counts."""
    if reply.is_error:
        raise StoreUnavailable(f"The bucket answered {reply.status_code}. Retry.")


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
