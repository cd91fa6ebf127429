"""The one HTML page of the web UI, filled in for the request it answers.

The page's scripts find the API at the absolute origin the browser sees. A proxy that
changes it says so in `X-Forwarded-Proto` and `X-Forwarded-Host`, which are believed
with `MATYAN_TRUST_FORWARDED` only, and a host only if `settings.ALLOWED_HOSTS` has it.

Scripts and styles of other sites (the Python runtime of reports, an icon font) are
loaded beside the page, never before it: without a way to the internet the page must
appear all the same.

Design note: docs/subsystems/web-ui.md#page
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from django.conf import settings
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host

API_SUFFIX: Final = "/api/v1"
"""The UI's live-update worker knows no other."""

_VARIABLE: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_INLINE_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_RUNTIME_SCRIPT: Final = re.compile(
    r'<script src="(https://[^"]+/pyodide\.js)"></script>'
)
_FOREIGN_STYLE: Final = re.compile(r'<link rel="stylesheet" href="(https://[^"]+)"/?>')
_LATE_RUNTIME: Final = (
    "<script>window.loadPyodide=function(options){return new Promise(function(done){"
    'var s=document.createElement("script");s.src="%s";'
    "s.onload=function(){done(window.loadPyodide(options))};"
    's.onerror=function(){console.warn("Reports need "+s.src)};'
    "document.head.appendChild(s)})}</script>"
)
_NO_RUNTIME: Final = (
    "<script>window.loadPyodide=function(){"
    'console.info("Scripts of reports are off (MATYAN_REPORT_SCRIPTS)");'
    "return new Promise(function(){})}</script>"
)
_LATE_STYLES: Final = (
    "<script>[%s].forEach(function(u)"
    '{var l=document.createElement("link");l.rel="stylesheet";l.href=u;'
    "document.head.appendChild(l)})</script>"
)
_PYODIDE: Final = "https://cdn.jsdelivr.net"
_POLICY: Final = {
    "default-src": "'self'",
    # Plotly compiles its WebGL drawing: without unsafe-eval such figures say that the
    # browser has no WebGL. Hashes keep out what the page itself did not bring.
    "script-src": "'self' 'unsafe-eval' {hashes}",
    "worker-src": "'self' blob:",
    "style-src": "'self' 'unsafe-inline' https://fonts.googleapis.com",
    "font-src": "'self' data: https://fonts.gstatic.com",
    "img-src": "'self' data: blob: https:",
    "media-src": "'self' data: blob:",
    "connect-src": "'self' data: blob: https://api.github.com",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}

_WITH_REPORT_SCRIPTS: Final = {
    "script-src": f"'wasm-unsafe-eval' {_PYODIDE}",
    "connect-src": _PYODIDE,
}
"""What the Python of reports needs besides. It is its author's, and runs as its reader:
whoever may write a report may then do what everybody who opens it may."""


@dataclass(frozen=True, slots=True)
class Page:
    """A rendered page.

    Attributes:
        html: The document.
        policy: Its Content-Security-Policy.
    """

    html: str
    policy: str


def render(
    template: str, *, origin: str, base_path: str, report_scripts: bool = False
) -> Page:
    """Return the page of `template`.

    Args:
        template: The package's `index-template.html`.
        origin: `https://host[:port]`, as the browser sees it.
        base_path: Path the server is mounted at, without a slash at the end.
        report_scripts: Whether the Python in reports may run.
    """
    # Both stand in attributes and in scripts: an origin has no character that means
    # anything there, and a quoted path has none either.
    base_path = quote(base_path)
    values = {
        "base_path": base_path,
        "api_base_path": API_SUFFIX,
        "api_host_base": origin + base_path,
        "api_auth_token": "",
    }
    html = _defer_foreign(template, report_scripts=report_scripts)
    html = _VARIABLE.sub(lambda found: values.get(found[1], ""), html)
    hashes = " ".join(_hash(script) for script in _INLINE_SCRIPT.findall(html))
    more = _WITH_REPORT_SCRIPTS if report_scripts else {}
    policy = "; ".join(
        " ".join(filter(None, [name, value, more.get(name)]))
        for name, value in _POLICY.items()
    )
    return Page(html, policy.format(hashes=hashes))


def _defer_foreign(template: str, *, report_scripts: bool) -> str:
    """Return the page with scripts and styles of other sites loaded by scripts.

    The UI asks for its Python runtime on every page: the stand-in fetches the real
    loader then, which takes its place, or none.
    """

    def stand_in(found: re.Match[str]) -> str:
        return _LATE_RUNTIME % found[1] if report_scripts else _NO_RUNTIME

    html = _RUNTIME_SCRIPT.sub(stand_in, template)
    styles = _FOREIGN_STYLE.findall(html)
    if not styles:
        return html
    late = _LATE_STYLES % ",".join(f'"{url}"' for url in styles)
    return _FOREIGN_STYLE.sub("", html).replace("</head>", f"{late}</head>", 1)


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def origin_of(request: HttpRequest) -> str:
    """Return the origin the browser has in its address bar.

    Raises:
        DisallowedHost: If the request's own host is not allowed.
    """
    host, scheme = request.get_host(), request.scheme or "http"
    if not settings.MATYAN_TRUST_FORWARDED:
        return f"{scheme}://{host}"
    forwarded = _first(request.headers.get("X-Forwarded-Host", ""))
    if forwarded and _is_allowed(forwarded):
        host = forwarded
    said = _first(request.headers.get("X-Forwarded-Proto", "")).lower()
    if said in {"http", "https"}:
        scheme = said
    return f"{scheme}://{host}"


def _first(header: str) -> str:
    """Return what the proxy nearest to the browser said."""
    return header.split(",", 1)[0].strip()


def _is_allowed(host: str) -> bool:
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)
