"""Which addresses a webhook may have: the registry must not be a way into a private network.

The URL is checked when a webhook is added. At each delivery its host is resolved again, and the
connection goes to an address that was checked, whatever the name resolves to a moment later.
"""

import ipaddress
from collections.abc import Collection, Iterable
from typing import TypeAlias
from urllib.parse import urlsplit

from registry.errors import Forbidden

_IP: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def check_target(url: str, allowed: Collection[str]) -> bool:
    """Whether the URL's host may have a private address: an operator allowed it by name.

    allowed: `HOST` or `HOST:PORT`. Raises `Forbidden` for plain HTTP to any other host.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if host in allowed or f"{host}:{port}" in allowed:
        return True
    if parts.scheme != "https":
        raise Forbidden(
            f"Events are sent by https only, and {host}:{port} is not an allowed host. Use an "
            "https URL, or allow the host: LORARY_WEBHOOK_HOSTS."
        )
    return False


def choose_address(host: str, addresses: Iterable[str], *, private: bool) -> str:
    """The address to connect to, of those that `host` resolves to.

    private: whether private addresses are allowed. Raises `Forbidden` if any of them is not.
    """
    found = list(addresses)
    for address in found:
        if not private and not is_public(address):
            raise Forbidden(
                f"{host} resolves to {address}, which is not a public address. Use another host, "
                "or allow this one: LORARY_WEBHOOK_HOSTS."
            )
    if not found:
        raise Forbidden(f"{host} resolves to no address. Correct the URL.")
    return found[0]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not private, loopback, link-local
    (which holds cloud metadata), multicast or reserved, also where IPv6 embeds such an address."""
    ip: _IP = ipaddress.ip_address(address.partition("%")[0])
    return all(one.is_global and not one.is_multicast for one in _meant(ip))


def _meant(ip: _IP) -> list[_IP]:
    """The address, and the IPv4 addresses that it may be translated to on its way."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip.ipv4_mapped is not None:
        return [ip.ipv4_mapped]
    found: list[_IP] = [ip]
    if ip.sixtofour is not None:
        found.append(ip.sixtofour)
    if ip.teredo is not None:
        found.extend(ip.teredo)
    if ip in _NAT64:
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF))
    return found
