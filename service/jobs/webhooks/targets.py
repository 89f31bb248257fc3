"""Where webhooks may go: to hosts that the settings list, and never into the private network behind a public name."""

import asyncio
import ipaddress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from socket import SOCK_STREAM

import httpx

from service.settings import LOOPBACK_NAMES, is_loopback

NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses behind which a gateway finds the IPv4 address of their last 32 bits."""


class WebhookError(ValueError):
    """A webhook may not be called, or did not accept what was sent; the message says why."""


@dataclass(frozen=True)
class WebhookTargets:
    """What the settings allow.

    Attributes:
        hosts: names and addresses; empty allows none.
    """

    hosts: frozenset[str]

    def parse(self, text: str) -> httpx.URL:
        """Read an address at which a webhook may be called.

        Raises:
            WebhookError: it may not be called.
        """
        if not self.hosts:
            raise WebhookError("webhooks are off; WITHSTAND_WEBHOOK_HOSTS turns them on")
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL as error:
            raise WebhookError(f"the webhook is no URL: {error}; expected such as https://example.org/path") from error
        if url.userinfo:
            raise WebhookError("the webhook has a user name or password; put a token into its path or query instead")
        if url.host not in self.hosts:
            raise WebhookError(f"the host {url.host!r} of the webhook is not in WITHSTAND_WEBHOOK_HOSTS")
        if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.host)):
            raise WebhookError(f"the webhook must begin with https://, got {url.scheme}://")
        return url

    async def address_of(self, url: httpx.URL) -> str:
        """Resolve the host of a webhook.

        Raises:
            WebhookError: one of its addresses may not be called.
            OSError: it has none.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(url.host, url.port or 443, type=SOCK_STREAM)
        addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
        if refused := [each for each in addresses if not _may_be_called(url.host, each)]:
            raise WebhookError(
                f"the host {url.host!r} of the webhook has the address {refused[0]}, which is not public"
            )
        return str(addresses[0])


def _may_be_called(host: str, address: IPv4Address | IPv6Address) -> bool:
    if host in LOOPBACK_NAMES:
        return address.is_loopback
    return host == str(address) or is_public(address)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is on the public internet, and so is the IPv4 address that it may stand for."""
    if isinstance(address, IPv6Address):
        last_bits = IPv4Address(int(address) & 0xFFFFFFFF)
        within = address.ipv4_mapped or address.sixtofour or (last_bits if address in NAT64 else None)
        if within is not None:
            return is_public(within)
    return address.is_global and not address.is_multicast
