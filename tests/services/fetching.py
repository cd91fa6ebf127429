"""What tests fetch from package registries: once, whole, kept in `.cache/`."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from matyan_project import env

CACHE = env.BASE_DIR / ".cache"
FETCH_TIMEOUT_S = 300


def fetch_once(name: str, fetch: Callable[[Path], None]) -> Path:
    """Return `.cache/NAME`, filled by `fetch` the first time.

    One process at a time fetches: test processes start together, and neither Maven's
    nor pip's own caches like to be filled twice at once. What an interrupted fetch
    leaves is begun anew.

    Args:
        name: Of the directory; says the version.
        fetch: Fills the directory it is given, at its final path: what is installed
            into a virtual environment cannot be moved.
    """
    CACHE.mkdir(exist_ok=True)
    directory, complete = CACHE / name, CACHE / f"{name}.complete"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            fetch(directory)
            complete.touch()
    return directory


def run_fetch(*command: str | Path) -> None:
    """Run a package client; show what it said if it fails.

    Raises:
        RuntimeError: If it fails.
    """
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=FETCH_TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(done.stdout[-4000:])
