"""Which server, and what lets one in: arguments first, then the environment."""

from __future__ import annotations

from matyan_client import _env, urls
from matyan_client.tls import Tls
from matyan_client.urls import Endpoints


def choose_endpoints(
    repo: object,
    frontier_url: str | None = None,
    *,
    token: str | None = None,
    ca_bundle: str | None = None,
    verify: bool | None = None,
) -> Endpoints:
    """Return the server that arguments and environment name.

    Args:
        repo: Its address, a `Repo` (which lends its credentials), or None.
        frontier_url: Address of its gateway.
        token: Its token.
        ca_bundle: File with further certificates to trust.
        verify: Whether certificates are checked.

    Raises:
        TypeError: If `repo` is none of these.
        ValueError: If an address, a token or a file cannot be used.
    """
    lender = getattr(repo, "endpoints", None)
    lent = lender if isinstance(lender, Endpoints) else None
    if lent is not None and ca_bundle is None and verify is None:
        tls = lent.backend.tls
    else:
        tls = Tls.choose(
            _env.CA_BUNDLE.get() if ca_bundle is None else ca_bundle,
            verify=_env.TLS_VERIFY.get() if verify is None else verify,
        )
    found = urls.choose(
        _address(repo),
        frontier_url,
        backend_env=_env.BACKEND_URL.get(),
        frontier_env=_env.FRONTIER_URL.get(),
        token=token,
        tls=tls,
    )
    if lent is not None:
        found = found.borrow([lent])
    token_env = _env.TOKEN.get()
    urls.check_token(token_env, _env.TOKEN.name)
    return found.let_in(default_token=token_env)


def _address(repo: object) -> str | None:
    if repo is None or isinstance(repo, str):
        return repo
    url = getattr(repo, "url", None)  # a Repo
    if isinstance(url, str):
        return url
    msg = f"repo= is an address or a Repo, not {type(repo).__name__}"
    raise TypeError(msg)
