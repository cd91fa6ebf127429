"""How a server's certificate is checked.

By default as browsers do: against the authorities this machine knows, with those that
come with httpx. A file of further authorities (or a self-signed certificate itself) is
added to them, so that a blob store elsewhere can still be reached.
"""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import certifi


@dataclass(frozen=True)
class Tls:
    """What is trusted.

    Attributes:
        ca_bundle: File with further certificates to trust, PEM; "" for none.
        verify: Whether certificates are checked at all.
    """

    ca_bundle: str = ""
    verify: bool = True

    @classmethod
    def choose(cls, ca_bundle: str, *, verify: bool) -> Tls:
        """Return the settings, tried once.

        Raises:
            ValueError: If the file cannot be used; the text names it.
        """
        bundle = str(Path(ca_bundle).expanduser().absolute()) if ca_bundle else ""
        chosen = cls(bundle, verify)
        if bundle and verify:
            chosen.context()
        return chosen

    def context(self) -> ssl.SSLContext:
        """Return what connections are made with; shared by all that ask for the same.

        Raises:
            ValueError: If the file cannot be used.
        """
        return _context(self)


USUAL: Final = Tls()


@functools.lru_cache(maxsize=16)
def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.load_verify_locations(certifi.where())
    if tls.ca_bundle:
        try:
            context.load_verify_locations(tls.ca_bundle)
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror or str(error)
            msg = (
                f"the certificates in {tls.ca_bundle!r} cannot be used: {reason}. "
                "`ca_bundle=` / MATYAN_CA_BUNDLE must name a PEM file."
            )
            raise ValueError(msg) from error
    return context


def remedy(error: BaseException) -> str | None:
    """Return what to do about a failed TLS handshake; None if `error` is none."""
    cause = _tls_error(error)
    if cause is None:
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        if "expired" in str(cause):
            return "The server's certificate has expired: it must be renewed there."
        return (
            "Its certificate is not trusted here: give the authority's (or the "
            "certificate's) file as `ca_bundle=` / MATYAN_CA_BUNDLE, or, where nobody "
            "can come between, switch the check off with `verify=False` / "
            "MATYAN_TLS_VERIFY=0."
        )
    return (
        "The TLS handshake failed: check that the address should begin with https:// "
        "and that nothing in between speaks for the server."
    )


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None
