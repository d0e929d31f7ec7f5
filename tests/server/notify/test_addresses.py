from __future__ import annotations

import asyncio

import pytest

from seismograd_server.errors import TransientDeliveryError
from seismograd_server.notify.addresses import is_public, public_addresses, resolve


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_public_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # where clouds keep credentials
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "192.0.2.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:7f00:1::",
        "2001:db8::1",
        "not an address",
        "",
    ],
)
def test_everything_else_is_not_whatever_it_is_wrapped_in(address: str) -> None:
    assert not is_public(address)


def test_one_private_address_among_public_ones_refuses_them_all() -> None:
    async def mixed(host: str, port: int) -> list[str]:
        return ["8.8.8.8", "10.0.0.1"]

    with pytest.raises(TransientDeliveryError, match=r"host evil\.example has an address that is not public"):
        asyncio.run(public_addresses("evil.example", 443, mixed))


def test_a_host_without_an_address_is_tried_again_later() -> None:
    async def none(host: str, port: int) -> list[str]:
        return []

    with pytest.raises(TransientDeliveryError, match="has no address"):
        asyncio.run(public_addresses("gone.example", 443, none))
    with pytest.raises(TransientDeliveryError, match="cannot be resolved"):
        asyncio.run(resolve("no-such-host.invalid", 443))


def test_an_address_in_place_of_a_name_is_judged_as_well() -> None:
    for host in ("127.0.0.1", "0x7f.1", "2130706433", "localhost"):
        with pytest.raises(TransientDeliveryError):
            asyncio.run(public_addresses(host, 443, resolve))
