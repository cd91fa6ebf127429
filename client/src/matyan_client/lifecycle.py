"""What happens to open runs at a fork and at the end of the process.

Open runs are held here until they are closed: a script that forgets to close one, and
lets go of it, finds it closed at the exit.
"""

from __future__ import annotations

import atexit
import multiprocessing.util
import os
from typing import Protocol


class Member(Protocol):
    """Something that must hear of forks and exits."""

    def after_fork_in_child(self) -> None:
        """Let go of what belongs to the parent. Runs before any user code."""
        ...

    def at_exit(self) -> None:
        """Close. Raises nothing."""
        ...


_members: dict[int, Member] = {}


def register(member: Member) -> None:
    """Tell `member` of forks and of the exit from now on."""
    _members[id(member)] = member


def unregister(member: Member) -> None:
    """Forget `member`."""
    _members.pop(id(member), None)


def _after_fork_in_child() -> None:
    for member in list(_members.values()):
        member.after_fork_in_child()


def _in_multiprocessing_child(_: object) -> None:
    # Children made by multiprocessing end without atexit, but run finalizers.
    multiprocessing.util.Finalize(None, _close_all, exitpriority=10)


def _close_all() -> None:
    for member in list(_members.values()):
        member.at_exit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
multiprocessing.util.register_after_fork(_close_all, _in_multiprocessing_child)
atexit.register(_close_all)
