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
_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that the public internet uses: https://www.iana.org/assignments/ipv6-address-space"""
_PROTOCOLS = ipaddress.IPv4Network("192.0.0.0/24")
"""Special purposes, of which Python before 3.12.4 knows only some: RFC 6890."""


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
    return all(map(_is_global, _meant(ip)))


def _is_global(ip: _IP) -> bool:
    if isinstance(ip, ipaddress.IPv6Address):
        return ip in _UNICAST and ip.is_global
    return ip.is_global and not ip.is_multicast and ip not in _PROTOCOLS


def _meant(ip: _IP) -> list[_IP]:
    """The addresses that a packet to `ip` may reach: an embedded IPv4 address, too."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip.ipv4_mapped is not None:
        return [ip.ipv4_mapped]
    if ip in _NAT64:
        return [ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)]
    found: list[_IP] = [ip]
    if ip.sixtofour is not None:
        found.append(ip.sixtofour)
    if ip.teredo is not None:
        found.extend(ip.teredo)
    return found
