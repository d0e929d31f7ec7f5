"""Where a webhook may go: public addresses only, unless the operator has named the host.

A name is resolved once and the connection made to the very address that was checked, because a name that answers with a
public address now may answer with a private one a moment later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

from seismograd_server.errors import TransientDeliveryError

# host, port -> the addresses that the name has now, as text.
Resolver = Callable[[str, int], Awaitable[list[str]]]

# Addresses of IPv6 that carry one of IPv4, which is where the packet goes in the end.
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


async def resolve(host: str, port: int) -> list[str]:
    """Ask the system's resolver for every address of a host."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TransientDeliveryError(f"host {host} cannot be resolved: {error}") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def public_addresses(host: str, port: int, resolver: Resolver) -> list[str]:
    """Every address of the host, all of them public.

    Raises:
        TransientDeliveryError: no address, or one that is not public: then all are refused, because whoever answers
            for the name may mix them.
    """
    found = await resolver(host, port)
    if not found:
        raise TransientDeliveryError(f"host {host} has no address")
    if any(not is_public(address) for address in found):
        raise TransientDeliveryError(
            f"host {host} has an address that is not public: name the host in allow_hosts if that is meant"
        )
    return found


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, whatever it is wrapped in.

    >>> is_public("8.8.8.8"), is_public("169.254.169.254"), is_public("::ffff:10.0.0.1")
    (True, False, False)
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a scope id, or no address at all
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = _carried(parsed)
        if inner is not None:
            return all(_is_public(each) for each in inner)
    return _is_public(parsed)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved


def _carried(address: ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address, ...] | None:
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if any(address in network for network in _NAT64):
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    return None
