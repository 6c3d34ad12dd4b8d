"""Which addresses of the network a tool may connect to: public ones, however they are written."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from urllib.parse import SplitResult, urlsplit

from agentkd.errors import DataError

__all__ = ["Connector", "Resolver", "checked_url", "connect", "is_public", "resolve", "resolved"]

Resolver = Callable[[str, int], Sequence[str]]
"""Returns the addresses of a host's name."""

Connector = Callable[[str, int, float], socket.socket]
"""Connects to an address and a port within some seconds."""

_V4_IN_V6 = (
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "::/96",
)  # mapped, NAT64 (RFC 6052, 8215), old
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "168.63.129.16/32",
        "2001::/23", "fec0::/10", "100::/64",
    )
]  # fmt: skip


def checked_url(url: str, schemes: Sequence[str], ports: Sequence[int]) -> SplitResult:
    """Return the parts of a URL that names a host openly; raises DataError for any other one."""
    if any(ord(char) <= 32 or ord(char) == 127 for char in url) or "\\" in url:
        raise DataError("the URL holds a space, a control character or a backslash")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise DataError(f"this is no URL: {error}") from error
    if parts.scheme.lower() not in schemes:
        raise DataError(f"`{parts.scheme or 'no scheme'}` is not allowed; use {' or '.join(schemes)}")
    if "@" in parts.netloc or not host or "%" in host:
        raise DataError("the URL must name a host, without user and password")
    if port is not None and port not in ports:
        raise DataError(f"port {port} is not allowed")
    return parts


def is_public(text: str) -> bool:
    """Whether an address lies on the public internet; one with another inside is judged by that one too."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return False
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if any(address in ipaddress.ip_network(network) for network in _V4_IN_V6):
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        found = [each for each in inner if each is not None]
        if found:
            return all(is_public(str(each)) for each in found)
    if any(address in network for network in _NOT_PUBLIC if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses that the system knows for a name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def connect(address: str, port: int, seconds: float) -> socket.socket:
    """Open a connection to an address, which is not resolved again."""
    return socket.create_connection((address, port), timeout=seconds)


def resolved(host: str, port: int, resolver: Resolver) -> str:
    """Return the one address to connect to; raises DataError unless all of the host's are public.

    A number in any spelling that the system's resolver understands (`0x7f.1`, `2130706433`) is resolved like
    a name, and judged by what it comes to.
    """
    try:
        ascii_host = host.encode("idna").decode("ascii") if not host.isascii() else host
        addresses = list(resolver(ascii_host, port))
        public = [is_public(address) for address in addresses]
    except (OSError, UnicodeError, ValueError) as error:
        raise DataError(f"the host `{host}` cannot be found: {error}") from error
    if not addresses or not all(public):
        raise DataError(f"the host `{host}` does not lie on the public internet")
    return addresses[0]
