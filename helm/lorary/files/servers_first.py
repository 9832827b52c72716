"""Waits until no server is of an older Lorary than this image, so that servers are updated first.

An older server stops at a commit that it must understand and does not: it learns of no revocation.

    python servers_first.py FILE SECONDS

FILE names the pools' services, HOST:PORT, one a line. Ends after SECONDS at the most, and after a
minute if servers do not answer and none is known to be older. Needs the standard library only.
"""

import http.client
import json
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

PAUSE = 5.0
"""Seconds between two looks."""
SILENT_SECONDS = 60.0
"""How long to wait for servers that do not answer."""


def release(text: str) -> tuple[int, ...]:
    """The numbers of a version: 0.2.0rc1 is 0.2.0."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def addresses(host: str, port: int) -> list[str]:
    """Every address behind the name; none while no server is ready."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return []
    return sorted({str(address[0]) for *_, address in found})


def asked(address: str, port: int) -> str | None:
    """The version of the server there, empty if it states none; None if it does not answer."""
    connection = http.client.HTTPConnection(address, port, timeout=3)
    try:
        connection.request("GET", "/health")
        body = json.loads(connection.getresponse().read(1 << 20))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return str(body.get("version", "")) if isinstance(body, dict) else ""


def versions(servers: list[str]) -> Iterator[str | None]:
    """What every server behind these names answers."""
    for server in servers:
        host, _, port = server.rpartition(":")
        for address in addresses(host, int(port)):
            yield asked(address, int(port))


def wait(
    look: Callable[[], list[str | None]],
    own: str,
    seconds: float,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Wait until no server is older than `own`; returns why it ended."""
    begun = now()
    while True:
        seen = look()
        older = [v for v in seen if v is not None and release(v) < release(own)]
        silent, passed = seen.count(None), now() - begun
        if not older and not silent:
            return f"no server is older than {own}"
        if not older and passed >= SILENT_SECONDS:
            return f"{silent} servers did not answer"
        if passed >= seconds:
            return f"{len(older)} servers are still older than {own}"
        print(f"waiting: {len(older)} servers older than {own}, {silent} silent", flush=True)
        sleep(PAUSE)


def main() -> None:
    """Wait as the command line says."""
    file, seconds = sys.argv[1:]
    servers = Path(file).read_text().split()
    print(wait(lambda: list(versions(servers)), version("lorary"), float(seconds)), flush=True)


if __name__ == "__main__":
    main()
