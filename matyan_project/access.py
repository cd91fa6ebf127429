"""Whether access is restricted, and TLS: what server commands settle before listening.

Design note: docs/subsystems/access.md
"""

from __future__ import annotations

import shlex
import ssl
from pathlib import Path
from typing import Final

from backend.access.addresses import is_loopback

OPEN: Final = (
    "access is open to every program on this machine (MATYAN_AUTH=off); "
    "other machines cannot connect"
)
IN_CLEAR: Final = (
    "WARNING: no TLS on an address other machines can reach: tokens and passwords "
    "travel in clear; give --tls-cert and --tls-key, or put a proxy with TLS before it"
)


class UnsafeListenError(Exception):
    """The server must not listen so; the text tells what to change."""


def restricted(data_dir: Path, *, default: Path) -> str:
    """Return what to say when access is restricted: who gets in, and how.

    Args:
        data_dir: Where this installation keeps its data.
        default: Where the commands look when they are not told.
    """
    where = ""
    if data_dir != default:
        where = f"MATYAN_DATA_DIR={shlex.quote(str(data_dir))} "
    return (
        "access needs a token or a person signed in (MATYAN_AUTH=required); "
        f"`{where}manage.py tokens create NAME` makes a token, "
        f"`{where}manage.py createsuperuser` a person"
    )


def auth_required(configured: str, *, host: str, production: bool) -> bool:
    """Return whether credentials are needed.

    Args:
        configured: `MATYAN_AUTH`: "required", "off" or "".
        host: Address the server listens on.
        production: Whether this is a production environment.
    """
    if configured:
        return configured == "required"
    return production or not is_loopback(host)


def require_safe_host(host: str, *, required: bool) -> None:
    """Return if a server may listen on `host`.

    Raises:
        UnsafeListenError: If access is open and other machines could connect.
    """
    if not required and not is_loopback(host):
        msg = (
            f"Access is open (MATYAN_AUTH=off), and {host} can be reached from other "
            "machines. Set MATYAN_AUTH=required, or listen on 127.0.0.1."
        )
        raise UnsafeListenError(msg)


def tls_options(cert: str, key: str) -> dict[str, str]:
    """Return uvicorn's options for a certificate; none for plain HTTP.

    Raises:
        UnsafeListenError: If only one of the two is given, or they cannot be used.
    """
    if not cert and not key:
        return {}
    if not cert or not key:
        msg = "A certificate needs its key: give --tls-cert and --tls-key together."
        raise UnsafeListenError(msg)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or str(error)
        msg = (
            f"The certificate {cert} with the key {key} cannot be used: {reason}. "
            "Both must be PEM files that belong together."
        )
        raise UnsafeListenError(msg) from error
    return {"ssl_certfile": cert, "ssl_keyfile": key}
