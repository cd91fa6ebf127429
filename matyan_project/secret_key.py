"""Django's signing key: given, or made once and kept beside the data."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def load_secret_key(given: str, *, path: Path, production: bool) -> str:
    """Return the key, making it on first use.

    Args:
        given: The configured key, "" for none.
        path: Where a key is kept; created readable by its owner only.
        production: Whether a key must be given.

    Raises:
        SystemExit: If none is given in production, or the file cannot be written.
    """
    if given:
        return given
    if production:
        msg = "MATYAN_SECRET_KEY is not set. Set it to a long random text."
        raise SystemExit(msg)
    try:
        return _read_or_create(path)
    except OSError as error:
        msg = (
            f"Cannot keep the secret key in {path}: {error.strerror}. "
            "Choose a data directory you can write (--data-dir or MATYAN_DATA_DIR)."
        )
        raise SystemExit(msg) from None


def _read_or_create(path: Path) -> str:
    if path.exists() and (text := path.read_text().strip()):
        return text
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Written aside and linked into place: several processes start at once, and each
    # must read the same whole key.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text().strip()
