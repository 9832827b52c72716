"""One attempt to deliver an event over HTTP."""

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx

from adapters.errors import LoraryError
from registry.model.webhooks import MAX_WEBHOOKS
from registry.notify.addresses import check_target, choose_address

SECONDS = 15.0
"""For a whole attempt, from the look-up of the name to the answer's status."""
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"

Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Sender:
    """Sends events. Follows no redirect, uses no proxy, and reads no answer's body."""

    def __init__(
        self, allowed: Collection[str], *, look_up: Resolve = resolve, seconds: float = SECONDS
    ) -> None:
        self._allowed, self._look_up, self._seconds = allowed, look_up, seconds
        # Threads of their own, one for each webhook: a name server that hangs must keep neither the
        # log from being read nor other names from being looked up.
        self._threads = ThreadPoolExecutor(MAX_WEBHOOKS, "webhook-names")
        self._looking: dict[tuple[str, int], asyncio.Future[list[str]]] = {}
        self._http = httpx.AsyncClient(
            verify=httpx.create_ssl_context(),
            trust_env=False,
            follow_redirects=False,
            timeout=seconds,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> str | None:
        """Post an event; why it did not arrive, or None if the receiver answered 2xx."""
        try:
            async with asyncio.timeout(self._seconds):
                status = await self._post(url, headers, body)
        except TimeoutError:
            return f"no answer within {self._seconds:g} s"
        except LoraryError as refusal:
            return refusal.message
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return None if 200 <= status < 300 else f"the receiver answered {status}"

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        private = check_target(url, self._allowed)
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = choose_address(host, await self._addresses(host, port), private=private)
        # The connection goes to the very address that was checked; TLS verifies the host's name.
        target = httpx.URL(url).copy_with(host=address)
        sent = {**headers, "Host": parts.netloc, "Content-Type": CONTENT_TYPE}
        request = self._http.build_request(
            "POST", target, headers=sent, content=body, extensions={"sni_hostname": host}
        )
        response = await self._http.send(request, stream=True)
        await response.aclose()
        return response.status_code

    async def _addresses(self, host: str, port: int) -> list[str]:
        """What a host resolves to now: one look-up at a time, however many wait for it."""
        key = host, port
        if key not in self._looking:
            loop = asyncio.get_running_loop()
            self._looking[key] = loop.run_in_executor(self._threads, self._look_up, host, port)
            self._looking[key].add_done_callback(lambda _: self._looking.pop(key))
        return await asyncio.shield(self._looking[key])
