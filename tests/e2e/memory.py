"""How much memory the processes of a server have had at most."""

from __future__ import annotations

from pathlib import Path

import psutil

from matyan_project.local_server import LocalServer

MEBIBYTE = 1 << 20


def peak_bytes(pid: int | str) -> int:
    """Return the greatest memory that a process has had; "self" is this one.

    Not `ru_maxrss`: a new process inherits that of the one that started it.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def server_peaks(server: LocalServer) -> dict[str, int]:
    """Return the peak of every process of a server, by command line and id."""
    return {
        f"{' '.join(process.cmdline())} ({process.pid})": peak_bytes(process.pid)
        for process in psutil.Process(server.pid).children(recursive=True)
    }


def growth_bytes(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return by how much each process has grown; none may have been replaced."""
    assert before.keys() == after.keys()
    return {name: after[name] - before[name] for name in before}
