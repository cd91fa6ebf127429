"""Every engine refuses what FoundationDB would refuse."""

from __future__ import annotations

import dataclasses

import pytest

from backend.errors import (
    KeyTooLargeError,
    TransactionTooLargeError,
    TransactionTooOldError,
    ValueTooLargeError,
)


class Clock:
    """Stands still until moved."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


def test_a_key_of_the_greatest_size_is_kept(engine):
    key = b"k" * engine.limits.key_bytes
    engine.transact(lambda tr: tr.set(key, b"v"))
    assert engine.read(lambda tr: tr.get(key)) == b"v"
    assert engine.read(lambda tr: tr.get_range(b"k", b"l")) == [(key, b"v")]


@pytest.mark.parametrize(
    "write",
    [
        lambda tr, key: tr.set(key, b""),
        lambda tr, key: tr.clear(key),
        lambda tr, key: tr.add(key, 1),
        lambda tr, key: tr.set_versionstamped_key(key[:-10], b"", b""),
    ],
)
def test_a_greater_key_is_refused(engine, write):
    key = b"k" * (engine.limits.key_bytes + 1)
    with pytest.raises(KeyTooLargeError, match="Key too large") as caught:
        engine.transact(lambda tr: write(tr, key))
    assert caught.value.fields == {"size": len(key), "limit": engine.limits.key_bytes}


def test_a_value_of_the_greatest_size_is_kept(engine):
    value = b"v" * engine.limits.value_bytes
    engine.transact(lambda tr: tr.set(b"k", value))
    assert engine.read(lambda tr: tr.get(b"k")) == value


@pytest.mark.parametrize(
    "write",
    [
        lambda tr, value: tr.set(b"k", value),
        lambda tr, value: tr.set_versionstamped_key(b"k", b"", value),
    ],
)
def test_a_greater_value_is_refused(engine, write):
    value = b"v" * (engine.limits.value_bytes + 1)
    with pytest.raises(ValueTooLargeError, match="Value too large") as caught:
        engine.transact(lambda tr: write(tr, value))
    limit = engine.limits.value_bytes
    assert caught.value.fields == {"size": limit + 1, "limit": limit}
    assert engine.read(lambda tr: tr.get_range(b"", b"\xff")) == []


def test_a_transaction_that_writes_too_much_is_refused_once(engine):
    attempts = []

    def run(tr):
        attempts.append(1)
        for number in range(105):
            tr.set(b"%06d" % number, b"x" * 99_000)

    with pytest.raises(TransactionTooLargeError, match="Split the write"):
        engine.transact(run)
    assert attempts == [1]
    assert engine.read(lambda tr: tr.get_range(b"", b"\xff")) == []


def test_a_transaction_just_below_the_limit_is_kept(engine):
    def run(tr):
        for number in range(99):
            tr.set(b"%06d" % number, b"x" * 99_000)
        return tr.approximate_size()

    assert engine.transact(run) < engine.limits.transaction_bytes
    assert len(engine.read(lambda tr: tr.get_range(b"", b"\xff"))) == 99


def test_the_approximate_size_grows_with_what_is_written(engine):
    def run(tr):
        sizes = [tr.approximate_size()]
        for write in (
            lambda: tr.set(b"k", b"v" * 1000),
            lambda: tr.clear(b"k2"),
            lambda: tr.clear_range(b"a", b"b"),
            lambda: tr.add(b"k3", 1),
            lambda: tr.set_versionstamped_key(b"s", b"", b"v" * 100),
            lambda: tr.add_write_conflict_range(b"a", b"b"),
        ):
            write()
            sizes.append(tr.approximate_size())
        return sizes

    sizes = engine.transact(run)
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 0
    assert sizes[1] >= 1000


def test_reads_and_commits_of_an_old_transaction_are_refused(subject):
    clock = Clock()
    engine = subject.open(clock=clock)
    age = engine.limits.transaction_seconds
    attempts = []

    def read_late(tr):
        attempts.append(1)
        tr.get(b"k")
        clock.now_s += age + 1
        tr.get(b"k")

    with pytest.raises(TransactionTooOldError, match="took too long"):
        engine.read(read_late)
    with pytest.raises(TransactionTooOldError):
        engine.transact(read_late, timeout_s=3 * (age + 1))

    def commit_late(tr):
        tr.get(b"k")
        tr.set(b"k", b"late")
        clock.now_s += age + 1

    with pytest.raises(TransactionTooOldError):
        engine.transact(commit_late, timeout_s=3 * (age + 1))
    assert engine.read(lambda tr: tr.get(b"k")) is None


@pytest.mark.exact
def test_a_transaction_that_was_too_old_once_is_run_again(subject):
    clock = Clock()
    engine = subject.open(clock=clock)
    attempts = []

    def run(tr):
        attempts.append(1)
        tr.get(b"k")
        if len(attempts) == 1:
            clock.now_s += engine.limits.transaction_seconds + 1
        tr.set(b"k", b"done")

    engine.transact(run)
    assert len(attempts) == 2
    assert engine.read(lambda tr: tr.get(b"k")) == b"done"


def test_age_counts_from_the_first_read(subject):
    clock = Clock()
    engine = subject.open(clock=clock)

    def run(tr):
        tr.set(b"k", b"v")
        clock.now_s += engine.limits.transaction_seconds + 1
        return tr.get(b"other")

    assert engine.transact(run) is None
    assert engine.read(lambda tr: tr.get(b"k")) == b"v"


def test_limits_can_be_narrowed(subject):
    limits = dataclasses.replace(subject.open().limits, value_bytes=10, key_bytes=5)
    engine = subject.open(limits=limits)
    with pytest.raises(ValueTooLargeError):
        engine.transact(lambda tr: tr.set(b"k", b"v" * 11))
    with pytest.raises(KeyTooLargeError):
        engine.transact(lambda tr: tr.set(b"k" * 6, b""))
