"""The environment variables of the SDK; nothing else reads `os.environ`.

Every variable is read when it is needed, never at import, so that a notebook or a test
can change it. A value that cannot be used is named in an error, not ignored.

Reference: docs/subsystems/sdk.md#environment
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Generic, TypeVar

import platformdirs

T = TypeVar("T")

_FALSE: Final = frozenset({"0", "false", "no", "off", ""})
_TRUE: Final = frozenset({"1", "true", "yes", "on"})


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered not in _TRUE | _FALSE:
        msg = "must be 1 or 0"
        raise ValueError(msg)
    return lowered in _TRUE


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        msg = "must be a number of seconds, 0 or more"
        raise ValueError(msg)
    return value


def _size(text: str) -> int:
    value = int(text)
    if value < 0:
        msg = "must be a number of bytes, 0 or more"
        raise ValueError(msg)
    return value


class Var(Generic[T]):
    """One environment variable: its name, how it is read, and what it means."""

    __slots__ = ("default", "help", "name", "read")

    def __init__(
        self, name: str, read: Callable[[str], T], default: T, text: str
    ) -> None:
        self.name = name
        self.read = read
        self.default = default
        self.help = text

    def get(self) -> T:
        """Return the value in the environment, or the default.

        Raises:
            ValueError: If the value cannot be used; the text names the variable.
        """
        text = os.environ.get(self.name)
        if text is None:
            return self.default
        try:
            return self.read(text)
        except ValueError as error:
            msg = f"{self.name}={text!r}: {error}"
            raise ValueError(msg) from error


BACKEND_URL: Final = Var(
    "MATYAN_BACKEND_URL", str, "", "Backend, when `repo=` is not given."
)
FRONTIER_URL: Final = Var(
    "MATYAN_FRONTIER_URL", str, "", "Gateway, when neither URL is given."
)
TOKEN: Final = Var(
    "MATYAN_TOKEN", str.strip, "", "Token for servers whose address has none. Secret."
)
CA_BUNDLE: Final = Var(
    "MATYAN_CA_BUNDLE", str, "", "PEM file of certificates to trust besides the usual."
)
TLS_VERIFY: Final = Var(
    "MATYAN_TLS_VERIFY",
    _flag,
    True,  # noqa: FBT003 - the default value of a variable
    "0: certificates are not checked; only where nobody can come between.",
)
STATE_DIR: Final = Var("MATYAN_DIR", str, "", "Where journals are kept.")
JOURNAL_MAX_BYTES: Final = Var(
    "MATYAN_JOURNAL_MAX_BYTES",
    _size,
    4 * 1024**3,
    "Disk one writer's journal may take; what does not fit is dropped and counted.",
)
UPLOAD_COPY_MAX_BYTES: Final = Var(
    "MATYAN_UPLOAD_COPY_MAX_BYTES",
    _size,
    64 * 1024**2,
    "Largest file `log_artifact` copies into the journal; larger ones are linked.",
)
STRICT: Final = Var(
    "MATYAN_STRICT",
    _flag,
    False,  # noqa: FBT003 - the default value of a variable
    "Run() waits for the server and raises ConnectionError when it cannot be reached.",
)
SYNC_ORPHANS: Final = Var(
    "MATYAN_SYNC_ORPHANS",
    _flag,
    True,  # noqa: FBT003 - the default value of a variable
    "Run() delivers, in the background, journals that dead processes left.",
)
DETACHED_SYNC_S: Final = Var(
    "MATYAN_DETACHED_SYNC_S",
    _seconds,
    600.0,
    "How long a detached process goes on delivering after the exit; 0 starts none.",
)
CAPTURE_TERMINAL: Final = Var(
    "MATYAN_CAPTURE_TERMINAL",
    _flag,
    True,  # noqa: FBT003 - the default value of a variable
    "0 turns terminal capture off whatever the arguments say.",
)
FLUSH_INTERVAL_S: Final = Var(
    "MATYAN_FLUSH_INTERVAL_S",
    _seconds,
    0.1,
    "How long points may wait to be sent together.",
)

VARIABLES: Final = (
    BACKEND_URL,
    FRONTIER_URL,
    TOKEN,
    CA_BUNDLE,
    TLS_VERIFY,
    STATE_DIR,
    JOURNAL_MAX_BYTES,
    UPLOAD_COPY_MAX_BYTES,
    STRICT,
    SYNC_ORPHANS,
    DETACHED_SYNC_S,
    CAPTURE_TERMINAL,
    FLUSH_INTERVAL_S,
)


def state_dir() -> Path:
    """Return the directory of everything the SDK keeps on disk; may not exist yet."""
    configured = STATE_DIR.get()
    if configured:
        return Path(configured).expanduser().absolute()
    return Path(platformdirs.user_state_dir("matyan", appauthor=False))


def variables() -> dict[str, str]:
    """Return a copy of the whole environment, for `log_system_params`."""
    return dict(os.environ)


def child_environment(import_path: str, changes: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child that can import this package.

    Args:
        import_path: Directory holding the package; put before what is there.
        changes: Variables to set.
    """
    environment = {**os.environ, **changes}
    rest = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = (
        f"{import_path}{os.pathsep}{rest}" if rest else import_path
    )
    return environment
