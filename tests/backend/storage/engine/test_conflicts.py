"""Transactions happen as if one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.errors import StoreError, TransactionConflictError
from backend.storage.engine.base import Engine, Transaction

pytestmark = pytest.mark.exact

PATIENCE_S = 30


def attempts_when_disturbed(
    engine: Engine,
    first: Callable[[Transaction], object],
    disturbance: Callable[[Transaction], object],
    then: Callable[[Transaction], object] = lambda tr: tr.set(b"result", b""),
) -> int:
    """Commit `disturbance` between `first` and `then` of one transaction.

    Returns how often that transaction ran: once, or again after a conflict.
    """
    attempts = 0
    with ThreadPoolExecutor(1) as other:

        def run(tr: Transaction) -> None:
            nonlocal attempts
            attempts += 1
            first(tr)
            if attempts == 1:
                other.submit(engine.transact, disturbance).result(PATIENCE_S)
            then(tr)

        engine.transact(run, timeout_s=PATIENCE_S)
    return attempts


def write(*keys: bytes) -> Callable[[Transaction], None]:
    def run(tr: Transaction) -> None:
        for key in keys:
            tr.set(key, b"new")

    return run


@pytest.fixture
def filled(engine: Engine) -> Engine:
    def fill(tr):
        for letter in b"abcdef":
            tr.set(b"%c" % letter, b"old")

    engine.transact(fill)
    return engine


@pytest.mark.parametrize(
    "read",
    [
        lambda tr: tr.get(b"b"),
        lambda tr: tr.get_many([b"a", b"b"]),
        lambda tr: tr.get_range(b"a", b"c"),
        lambda tr: tr.get_range(b"a", b"f", limit=2),
        lambda tr: tr.get_range(b"a", b"d", limit=2, reverse=True),
        lambda tr: (tr.set(b"a", b"own"), tr.get_range(b"a", b"c")),
        lambda tr: (tr.clear_range(b"a", b"b"), tr.get_range(b"a", b"z")),
        lambda tr: tr.add_read_conflict_range(b"b", b"c"),
        lambda tr: (tr.add(b"b", 1), tr.get(b"b")),
    ],
)
def test_a_change_of_what_was_read_runs_it_again(filled, read):
    assert attempts_when_disturbed(filled, read, write(b"b")) == 2


@pytest.mark.parametrize(
    "read",
    [
        lambda tr: tr.get(b"c"),
        lambda tr: tr.get(b"b", snapshot=True),
        lambda tr: tr.get_range(b"a", b"c", snapshot=True),
        lambda tr: tr.get_many([b"a", b"b"], snapshot=True),
        lambda tr: tr.get_range(b"c", b"z"),
        lambda tr: tr.get_range(b"a", b"b"),
        lambda tr: tr.get_range(b"a", b"z", limit=1),
        lambda tr: tr.get_range(b"a", b"z", limit=3, reverse=True),
        lambda tr: tr.set(b"b", b"own"),
        lambda tr: (tr.set(b"b", b"own"), tr.get(b"b")),
        lambda tr: (tr.clear_range(b"b", b"c"), tr.get(b"b")),
        lambda tr: tr.add(b"b", 1),
        lambda tr: tr.add_write_conflict_range(b"a", b"z"),
    ],
)
def test_a_change_elsewhere_is_no_conflict(filled, read):
    assert attempts_when_disturbed(filled, read, write(b"b")) == 1


@pytest.mark.parametrize(
    "disturbance",
    [
        lambda tr: tr.clear(b"b"),
        lambda tr: tr.clear_range(b"a", b"c"),
        lambda tr: tr.add(b"b", 1),
        lambda tr: tr.set(b"bb", b"inserted"),
        lambda tr: tr.add_write_conflict_range(b"bb", b"bc"),
        lambda tr: tr.set_versionstamped_key(b"b", b"", b""),
    ],
)
def test_every_kind_of_write_conflicts_with_a_range_read(filled, disturbance):
    disturbed = attempts_when_disturbed(
        filled, lambda tr: tr.get_range(b"a", b"d"), disturbance
    )
    assert disturbed == 2


def test_a_missing_key_that_appears_is_a_conflict(filled):
    assert attempts_when_disturbed(filled, lambda tr: tr.get(b"x"), write(b"x")) == 2
    assert (
        attempts_when_disturbed(
            filled, lambda tr: tr.get_range(b"y", b"z"), write(b"y1")
        )
        == 2
    )


def test_a_transaction_that_writes_nothing_never_conflicts(filled):
    attempts = attempts_when_disturbed(
        filled, lambda tr: tr.get(b"b"), write(b"b"), then=lambda tr: None
    )
    assert attempts == 1


def test_reads_stay_at_one_version_while_others_commit(filled):
    def read(tr):
        before = tr.get(b"a")
        filled.transact(write(b"a", b"b"))
        return before, tr.get(b"b"), tr.get_range(b"a", b"c")

    old = (b"old", b"old", [(b"a", b"old"), (b"b", b"old")])
    assert filled.read(read) == old


def test_two_that_read_what_the_other_writes_cannot_both_have_read_first(filled):
    """Write skew: each alone would leave one of two switches on."""
    both_have_read = threading.Barrier(2, timeout=PATIENCE_S)
    first = threading.local()

    def switch_off(own: bytes, other: bytes) -> None:
        def run(tr: Transaction) -> None:
            on = tr.get(other) == b"on"
            if not getattr(first, "done", False):
                first.done = True
                both_have_read.wait()
            if on:
                tr.set(own, b"off")

        filled.transact(run, timeout_s=PATIENCE_S)

    def prepare(tr):
        tr.set(b"a", b"on")
        tr.set(b"b", b"on")

    filled.transact(prepare)
    with ThreadPoolExecutor(2) as threads:
        for done in [
            threads.submit(switch_off, b"a", b"b"),
            threads.submit(switch_off, b"b", b"a"),
        ]:
            done.result(PATIENCE_S)
    assert sorted(filled.read(lambda tr: tr.get_many([b"a", b"b"]))) == [b"off", b"on"]


def test_threads_that_read_and_set_count_exactly(engine):
    def step(tr):
        tr.set(b"count", b"%d" % (int(tr.get(b"count") or b"0") + 1))

    def count(_):
        for _ in range(25):
            engine.transact(step, timeout_s=PATIENCE_S)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count, range(4)))
    assert engine.read(lambda tr: tr.get(b"count")) == b"100"


def test_threads_that_share_a_commit_each_get_their_own_answer(engine):
    """Some conflict, some fail, some pass: none of it spills over to a neighbour."""
    engine.transact(lambda tr: tr.set(b"shared", b"0"))
    start = threading.Barrier(8, timeout=PATIENCE_S)

    def work(number):
        start.wait()
        for turn in range(10):
            if number % 4 == 0:
                with pytest.raises(StoreError):
                    engine.transact(lambda tr: tr.set(b"k" * 20_000, b""))
            engine.transact(
                lambda tr: (
                    tr.set(b"shared", b"%d" % (int(tr.get(b"shared")) + 1)),
                    tr.set(b"own/%d/%d" % (number, turn), b"%d" % turn),  # noqa: B023
                ),
                timeout_s=PATIENCE_S,
            )

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert engine.read(lambda tr: tr.get(b"shared")) == b"80"
    assert len(engine.read(lambda tr: tr.get_range(b"own/", b"own0"))) == 80


def test_a_lasting_conflict_is_raised_when_time_is_over(engine):
    def run(tr):
        tr.get(b"k")
        engine.transact(lambda other: other.add(b"k", 1))
        tr.set(b"result", b"")

    with pytest.raises(TransactionConflictError, match="Transaction conflict"):
        engine.transact(run, timeout_s=1.0)
    assert engine.read(lambda tr: tr.get(b"result")) is None
