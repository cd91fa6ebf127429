"""Counts wrong credentials by address, in bounded memory.

Each address has a bucket of `burst` failures that refills steadily. An attempt takes
its place in it before it is looked at, and gives the place back when it was none:
however many come at once, no more than the bucket holds are looked at. What is counted
here is this process's alone, and gone when it ends.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class AttemptLimiter:
    """Tells which addresses have failed too often lately. Thread-safe.

    Args:
        burst: Failures allowed at once.
        per_minute: Failures forgiven in a minute.
        max_addresses: Addresses remembered; the longest quiet one is forgotten first.
        clock: Seconds that only ever grow.
    """

    def __init__(
        self,
        *,
        burst: int,
        per_minute: float,
        max_addresses: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._per_s = per_minute / 60
        self._max_addresses = max_addresses
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def is_blocked(self, address: str) -> bool:
        """Return whether `address` has to wait."""
        with self._lock:
            return self._level(network_of(address)) > self._burst - 1

    def begin(self, address: str) -> bool:
        """Count an attempt of `address` as a failure; return False if it has to wait.

        Whoever finds that it was none calls `give_back`.
        """
        key = network_of(address)
        with self._lock:
            level = self._level(key)
            if level > self._burst - 1:
                return False
            self._set(key, level + 1)
            return True

    def give_back(self, address: str) -> None:
        """Take back what `begin` counted."""
        key = network_of(address)
        with self._lock:
            self._set(key, max(0.0, self._level(key) - 1))

    def count(self, address: str) -> None:
        """Count one failure of `address`."""
        key = network_of(address)
        with self._lock:
            self._set(key, min(self._level(key) + 1, self._burst))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._failures.clear()

    def _set(self, key: str, level: float) -> None:
        self._failures[key] = (level, self._clock())
        self._failures.move_to_end(key)
        if len(self._failures) > self._max_addresses:
            self._failures.popitem(last=False)

    def _level(self, key: str) -> float:
        level, since = self._failures.get(key, (0.0, 0.0))
        return max(0.0, level - (self._clock() - since) * self._per_s)


def network_of(address: str) -> str:
    """Return what is counted together: of IPv6, what one subscriber is given."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
