"""Which file system a path is on, to refuse those that LMDB cannot live on.

LMDB shares a memory map and POSIX locks between processes; over a network neither is
coherent, and the damage shows only later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

NETWORK_FILESYSTEMS: Final = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.cephfs",
    "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs",
    "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "smb3", "smbfs",
})  # fmt: skip

_MOUNTS: Final = Path("/proc/self/mounts")


def filesystem_of(path: Path, mounts: str | None = None) -> str | None:
    """Return the type of the file system that holds `path`, None when unknown.

    Args:
        path: An absolute path; it need not exist.
        mounts: The mount table, by default this process's own (Linux only).
    """
    if mounts is None:
        mounts = _read_mounts()
    found: tuple[int, str] | None = None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount_point = Path(_unescape(fields[1]))
        depth = len(mount_point.parts)
        # A later line covers an earlier one on the same mount point.
        if path.is_relative_to(mount_point) and (found is None or depth >= found[0]):
            found = (depth, fields[2])
    return found[1] if found else None


def is_network_filesystem(name: str | None) -> bool:
    """Return whether `name`, a mount type, is shared over a network."""
    return name in NETWORK_FILESYSTEMS


def _read_mounts() -> str:
    try:
        return _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _unescape(text: str) -> str:
    # The kernel writes space, tab, newline and backslash as \ooo.
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        text = text.replace(f"\\{code}", character)
    return text
