"""Which addresses are this machine's own.

While access is open nobody but this machine may come near: `require_safe_host` is what
server commands ask before they listen, `backend.access.gate` what each request meets.
"""

from __future__ import annotations

import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an address, means this machine only.

    A name counts when everything it resolves to does; one that does not resolve, and
    the addresses that mean "every interface", do not.
    """
    try:
        return _is_loopback_address(host)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    addresses = {str(info[4][0]) for info in found}
    return bool(addresses) and all(map(_is_loopback_address, addresses))


def _is_loopback_address(text: str) -> bool:
    address = ipaddress.ip_address(text.split("%", 1)[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
