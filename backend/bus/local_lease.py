"""Leases of group members: a small file each, renewed without touching the disk.

A member holds an exclusive lock on its file and keeps in it the moment its lease ends.
The kernel drops the lock when the process dies, however it dies, so a crashed member is
noticed at once; one that is stopped or stuck is noticed when the lease ends. Neither
needs an fsync, so an idle group writes nothing.

The moment is a reading of the machine's monotonic clock, which all processes share. A
lease that ends later than any could is one from before a restart of the machine.

Design note: docs/subsystems/eventlog.md#groups
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from backend.bus import local_format as fmt
from backend.bus.local_errors import translate

_MOMENT = struct.Struct("<q")
SUFFIX: Final = ".lease"


class Leases:
    """The leases of one log.

    Args:
        path: Directory of the log.
        lease_s: How long a member lives without renewing.
        monotonic: Clock shared by all processes of the machine, seconds.
    """

    def __init__(
        self, path: Path, *, lease_s: float, monotonic: Callable[[], float]
    ) -> None:
        self._directory = path / "members"
        self._lease_us = int(lease_s * 1_000_000)
        self._monotonic = monotonic

    def take(self) -> Lease:
        """Return a new lease under a new member id.

        Raises:
            EventLogError: If its file cannot be made.
        """
        member = secrets.token_bytes(fmt.MEMBER_ID_BYTES)
        path = self._path(member)
        try:
            self._directory.mkdir(exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            lease = Lease(member, path, descriptor, self._end_us)
            lease.renew()
        except OSError as error:
            raise translate(error, self._directory.parent) from error
        return lease

    def is_live(self, member: bytes) -> bool:
        """Return whether the member's process lives and its lease has not ended."""
        try:
            descriptor = os.open(self._path(member), os.O_RDONLY)
        except OSError:
            return False
        try:
            moment = os.read(descriptor, _MOMENT.size)
            return self._is_running(moment) and _is_locked(descriptor)
        finally:
            os.close(descriptor)

    def forget(self, members: Collection[bytes]) -> None:
        """Remove the files of members that left or died."""
        for member in members:
            with contextlib.suppress(OSError):
                self._path(member).unlink()

    def sweep(self) -> None:
        """Remove files that no living member holds."""
        for path in self._directory.glob(f"*{SUFFIX}"):
            member = bytes.fromhex(path.stem)
            if not self.is_live(member):
                self.forget([member])

    def _path(self, member: bytes) -> Path:
        return self._directory / f"{member.hex()}{SUFFIX}"

    def _now_us(self) -> int:
        return int(self._monotonic() * 1_000_000)

    def _end_us(self) -> int:
        return self._now_us() + self._lease_us

    def _is_running(self, moment: bytes) -> bool:
        if len(moment) < _MOMENT.size:
            return False
        left_us = _MOMENT.unpack(moment)[0] - self._now_us()
        return bool(0 < left_us <= self._lease_us)


class Lease:
    """One member's lease. Belongs to the thread of its consumer."""

    def __init__(
        self, member: bytes, path: Path, descriptor: int, end_us: Callable[[], int]
    ) -> None:
        self.member = member
        self._path = path
        self._descriptor = descriptor
        self._end_us = end_us

    def renew(self) -> None:
        """Let the lease run in full again."""
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, _MOMENT.pack(self._end_us()), 0)

    def end(self) -> None:
        """Give the lease up."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
