"""Which clients count as one."""

import ipaddress
from functools import lru_cache

IPV6_PREFIX = 64
"""Bits of an IPv6 address that tell networks apart; within one a client may choose its address."""


def network(client: tuple[str, int] | None) -> str:
    """Name the network of a client: its IPv4 address, or the first 64 bits of its IPv6 address; "" where it has none."""
    return _network(client[0]) if client else ""


@lru_cache(1024)
def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((host.partition("%")[0], IPV6_PREFIX), strict=False))
