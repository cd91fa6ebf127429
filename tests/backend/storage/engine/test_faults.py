"""Injected conflicts and unknown results: what happened, and what the caller sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CommitUnknownResultError, TransactionConflictError
from backend.storage.engine.faults import Fault, FaultInjector

ONE = (1).to_bytes(8, "little")
TWO = (2).to_bytes(8, "little")


def add_one(engine) -> int:
    """Add, which is not idempotent and so tells how often it was applied."""
    attempts = []
    engine.transact(lambda tr: (attempts.append(1), tr.add(b"k", 1)))
    return len(attempts)


@pytest.mark.exact
@pytest.mark.parametrize(
    ("fault", "attempts", "stored"),
    [
        (Fault.NONE, 1, ONE),
        (Fault.CONFLICT, 2, ONE),
        (Fault.UNKNOWN_LOST, 2, ONE),
        (Fault.UNKNOWN_APPLIED, 2, TWO),
    ],
)
def test_a_fault_is_retried(subject, fault, attempts, stored):
    faults = FaultInjector(schedule=[fault])
    engine = subject.open(faults=faults)
    assert add_one(engine) == attempts
    assert engine.read(lambda tr: tr.get(b"k")) == stored
    assert faults.fired[fault] >= 1


@pytest.mark.exact
@pytest.mark.parametrize(
    ("odds", "error", "applied"),
    [
        ({"conflict": 1.0}, TransactionConflictError, False),
        ({"unknown_lost": 1.0}, CommitUnknownResultError, False),
        ({"unknown_applied": 1.0}, CommitUnknownResultError, True),
    ],
)
def test_a_lasting_fault_is_raised_when_time_is_over(subject, odds, error, applied):
    engine = subject.open(faults=FaultInjector(**odds))
    with pytest.raises(error):
        engine.transact(lambda tr: tr.set(b"k", b"v"), timeout_s=0.05)
    assert (engine.read(lambda tr: tr.get(b"k")) == b"v") is applied


def test_transactions_that_write_nothing_meet_no_fault(subject):
    faults = FaultInjector(conflict=1.0)
    engine = subject.open(faults=faults)
    assert engine.transact(lambda tr: tr.get(b"k")) is None
    assert engine.read(lambda tr: tr.get(b"k")) is None
    assert not faults.fired


@pytest.mark.exact
def test_faults_can_be_planned_later(subject):
    faults = FaultInjector()
    engine = subject.open(faults=faults)
    assert add_one(engine) == 1
    faults.plan(Fault.CONFLICT, Fault.CONFLICT)
    assert add_one(engine) == 3


@given(seed=st.integers(0, 2**32))
def test_idempotent_writes_come_out_right_under_any_faults(subject, seed):
    faults = FaultInjector(
        conflict=0.2, unknown_applied=0.2, unknown_lost=0.2, seed=seed
    )
    engine = subject.open(faults=faults)
    try:
        engine.transact(lambda tr: tr.clear_range(b"", b"\xff"))

        def append(tr, number):
            last = int(tr.get(b"last") or b"-1")
            if last < number:
                tr.add(b"sum", number)
                tr.set(b"last", b"%d" % number)

        for number in range(8):
            engine.transact(lambda tr: append(tr, number))  # noqa: B023
        total = engine.read(lambda tr: tr.get(b"sum"))
        assert int.from_bytes(total, "little") == sum(range(8))
    finally:
        engine.close()


def test_the_same_seed_draws_the_same_faults():
    def draw(seed):
        faults = FaultInjector(conflict=0.3, unknown_applied=0.3, seed=seed)
        return [faults.draw() for _ in range(100)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert set(draw(1)) == {Fault.NONE, Fault.CONFLICT, Fault.UNKNOWN_APPLIED}
