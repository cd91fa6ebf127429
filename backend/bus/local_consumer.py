"""A member of a consumer group of the local event log.

Waiting: a poll without records sleeps 2 ms, then longer, up to 20 ms, and each time
looks at one number in shared memory that every commit raises. Idle members cost well
under 1 % of a core; a record is seen within 20 ms, within 2 ms under load.

Commits are stored with an fsync, so at most every `COMMIT_INTERVAL_S` one is; later
ones wait for the next poll, heartbeat or close. A crash loses what waits: those records
are delivered again, which the contract allows anyway.

Design note: docs/subsystems/eventlog.md#groups
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from typing_extensions import override

from backend.bus import local_format as fmt
from backend.bus import local_groups as groups
from backend.bus.base import Consumer, Record, TopicPartition
from backend.bus.local_environment import LocalEnvironment
from backend.bus.local_lease import Leases
from backend.bus.local_reader import Budget, read_records
from backend.errors import EventLogClosedError, EventLogError, StaleConsumerError

logger = logging.getLogger(__name__)

COMMIT_INTERVAL_S: Final = 0.2
CHECK_INTERVAL_S: Final = 0.5
"""How often a member looks whether others died or partitions were added."""

FIRST_SLEEP_S: Final = 0.002
LONGEST_SLEEP_S: Final = 0.020


class LocalConsumer(Consumer):
    """See the module.

    Args:
        env: The log.
        leases: Leases of the log's members.
        group: Consumer group.
        topics: Topics to read; they exist and know the group.
        now_us: Wall clock, tells who joined first.
        on_close: Called once when the member has left.
    """

    def __init__(  # noqa: PLR0913 - each is one independent choice
        self,
        env: LocalEnvironment,
        leases: Leases,
        *,
        group: str,
        topics: Sequence[str],
        now_us: Callable[[], int],
        on_close: Callable[[LocalConsumer], None],
    ) -> None:
        self._env = env
        self._leases = leases
        self._topics = tuple(dict.fromkeys(topics))
        self._group = group
        self._now_us = now_us
        self._on_close = on_close
        self._wake = threading.Event()
        self._closed = False
        self._version = -1
        self._checked_s = float("-inf")
        self._stored_s = float("-inf")
        self._owned: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._waiting: dict[TopicPartition, int] = {}
        self._turn = 0
        self._lease = leases.take()
        self._me = self._new_member()
        try:
            self._settle_membership()
        except BaseException:
            self._lease.end()
            raise

    @override
    def poll(
        self, *, max_records: int, max_bytes: int, timeout_s: float
    ) -> list[Record]:
        self._check_open()
        deadline = time.monotonic() + timeout_s
        sleep_s = FIRST_SLEEP_S
        seen = -1
        while True:
            self._tend()
            changed = self._env.last_change() != seen
            if changed:
                seen = self._look()
            self._settle_membership_if_due()
            if changed:
                records = self._fetch(max_records, max_bytes)
                if records:
                    return records
            left_s = deadline - time.monotonic()
            if left_s <= 0 or self._wake.wait(min(sleep_s, left_s)):
                self._wake.clear()
                return []
            self._check_open()
            sleep_s = min(sleep_s * 1.25, LONGEST_SLEEP_S)

    @override
    def commit(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        self._check_open()
        self._lease.renew()
        stale = self._env.read(
            lambda txn: groups.find_stale(
                txn, self._env, self._me, self._owned, next_offsets
            )
        )
        for where, offset in next_offsets.items():
            if where not in stale:
                self._waiting[where] = max(offset, self._waiting.get(where, 0))
        if time.monotonic() - self._stored_s >= COMMIT_INTERVAL_S:
            stale += [s for s in self._store_offsets() if s not in stale]
        if stale:
            self._version = -1
            raise StaleConsumerError(
                group=self._group, topic=stale[0].topic, partition=stale[0].partition
            )

    @override
    def heartbeat(self) -> None:
        self._check_open()
        self._tend()

    @override
    def rewind(self, next_offsets: Mapping[TopicPartition, int]) -> None:
        self._check_open()
        for where, offset in next_offsets.items():
            if where in self._owned:
                self._positions[where] = offset

    @override
    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._owned)

    @override
    def wake(self) -> None:
        self._wake.set()

    @override
    def close(self) -> None:
        if self._closed or self._env.is_inherited():
            return
        self._closed = True
        try:
            self._env.write(self._leave)
        except EventLogClosedError:
            return
        except EventLogError as error:
            # The others notice without being told: the lease ends here.
            logger.warning("eventlog.leave_failed", extra={"reason": str(error)})
        finally:
            self._lease.end()
            self._on_close(self)

    def _check_open(self) -> None:
        self._env.check_usable()
        if self._closed:
            raise EventLogClosedError(path=str(self._env.path))

    def _new_member(self) -> groups.Member:
        row = fmt.MemberRow(self._now_us(), self._topics)
        return groups.Member(self._group, self._lease.member, row)

    def _tend(self) -> None:
        self._lease.renew()
        if self._waiting and time.monotonic() - self._stored_s >= COMMIT_INTERVAL_S:
            self._store_offsets()

    def _look(self) -> int:
        """Return the number of the newest commit that can be read.

        Not the one `last_change` tells: that is shown a moment before, and a record
        committed in between would be missed.
        """
        number, version = self._env.read(
            lambda txn: (txn.id(), groups.version(txn, self._env, self._group))
        )
        if version != self._version:
            self._checked_s = float("-inf")
        return int(number)

    def _settle_membership_if_due(self) -> None:
        if time.monotonic() - self._checked_s >= CHECK_INTERVAL_S:
            self._settle_membership()

    def _settle_membership(self) -> None:
        # Only between batches: partitions change hands here.
        self._checked_s = time.monotonic()
        made = self._env.read(self._plan)
        if made.changes:
            made = self._env.write(self._apply)
            self._waiting.clear()
        self._version = made.version + (1 if made.changes else 0)
        self._leases.forget(made.dead)
        self._adopt(made.owned)

    def _plan(self, txn: Any) -> groups.Plan:
        return groups.plan(txn, self._env, self._me, self._leases.is_live)

    def _apply(self, txn: Any) -> groups.Plan:
        made = self._plan(txn)
        if made.joins and self._version >= 0:
            # The others took this member for dead: it starts anew, owning nothing.
            self._take_new_lease()
            made = self._plan(txn)
        if made.changes:
            self._put_waiting(txn)
            groups.apply(txn, self._env, self._me, made)
        return made

    def _take_new_lease(self) -> None:
        self._lease.end()
        self._lease = self._leases.take()
        self._me = self._new_member()
        self._owned = {}

    def _adopt(self, owned: dict[TopicPartition, int]) -> None:
        gained = [p for p, epoch in owned.items() if self._owned.get(p) != epoch]
        lost = [p for p in self._owned if p not in owned]
        if gained:
            starts = self._env.read(lambda txn: self._starts(txn, gained))
            self._positions.update(starts)
        for where in lost:
            self._positions.pop(where, None)
            self._waiting.pop(where, None)
        if gained or lost:
            extra = {"group": self._group, "owned": len(owned), "gained": len(gained)}
            logger.info("eventlog.rebalanced", extra=extra)
        self._owned = owned

    def _starts(
        self, txn: Any, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        return {
            where: groups.committed(txn, self._env, self._group, where)
            for where in partitions
        }

    def _fetch(self, max_records: int, max_bytes: int) -> list[Record]:
        budget = Budget(max_records, max_bytes)
        # Each poll starts at another partition, so that a busy one cannot starve the
        # others.
        order = sorted(self._owned, key=lambda p: (p.topic, p.partition))
        self._turn += 1
        turn = self._turn % len(order) if order else 0
        records = self._env.read(
            lambda txn: list(self._read(txn, order[turn:] + order[:turn], budget))
        )
        for record in records:
            place = record.position
            self._positions[TopicPartition(place.topic, place.partition)] = (
                place.offset + 1
            )
        return records

    def _read(
        self, txn: Any, order: Sequence[TopicPartition], budget: Budget
    ) -> Iterator[Record]:
        for where in order:
            start = self._positions[where]
            yield from read_records(txn, self._env, where, start, budget)

    def _store_offsets(self) -> list[TopicPartition]:
        """Store the waiting commits; return the partitions no longer owned."""
        if not self._waiting:
            return []
        stale = self._env.write(self._put_waiting)
        self._waiting.clear()
        self._stored_s = time.monotonic()
        return stale

    def _put_waiting(self, txn: Any) -> list[TopicPartition]:
        stale = groups.find_stale(
            txn, self._env, self._me, self._owned, list(self._waiting)
        )
        valid = {p: n for p, n in self._waiting.items() if p not in stale}
        groups.put_offsets(txn, self._env, self._group, valid)
        return stale

    def _leave(self, txn: Any) -> None:
        self._put_waiting(txn)
        # Others judge this member by its lease, which still runs: look past it.
        groups.leave(txn, self._env, self._me, self._leases.is_live)
