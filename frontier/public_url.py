"""Where clients reach this server: what upload addresses begin with.

`MATYAN_PUBLIC_URL` if it is set; else what the client itself used: scheme, Host header,
and whatever stood before the API's path. With `MATYAN_TRUST_FORWARDED` a proxy's
X-Forwarded-Proto, -Host and -Prefix come first.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from frontier.admission import Scope
from frontier.http import HttpError, header

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)(:\d{1,5})?\Z")
_SCHEMES: Final = frozenset({"http", "https"})


def public_url(scope: Scope, *, prefix: str) -> str:
    """Return the URL of this server, without a slash at its end.

    Args:
        scope: The request's ASGI scope.
        prefix: What stood before "/api/…" in its path.

    Raises:
        HttpError: If the client says it used a host that this server is not.
    """
    if settings.MATYAN_PUBLIC_URL:
        return str(settings.MATYAN_PUBLIC_URL).rstrip("/")
    scheme, host = scope.get("scheme", "http"), header(scope, "host")
    if settings.MATYAN_TRUST_FORWARDED:
        scheme = _forwarded(scope, "proto") or scheme
        host = _forwarded(scope, "host") or host
        prefix = _forwarded(scope, "prefix").rstrip("/") + prefix
    domain, _ = split_domain_port(host)
    known = _HOST.match(host) and validate_host(domain, settings.ALLOWED_HOSTS)
    if not known or scheme not in _SCHEMES:
        raise HttpError(400, "bad_request", "Bad request")
    return f"{scheme}://{host}{quote(prefix)}"


def _forwarded(scope: Scope, name: str) -> str:
    return header(scope, f"x-forwarded-{name}").split(",")[0].strip()
