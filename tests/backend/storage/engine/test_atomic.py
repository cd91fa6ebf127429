"""Atomic operations and versionstamps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.errors import StoreError

pytestmark = pytest.mark.exact

STAMP_BYTES = 10


def word(number: int) -> bytes:
    return number.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("stored", "operation", "expected"),
    [
        (None, lambda tr: tr.add(b"k", 5), word(5)),
        (word(3), lambda tr: tr.add(b"k", 5), word(8)),
        (word(3), lambda tr: tr.add(b"k", -4), word(2**64 - 1)),
        (word(2**64 - 1), lambda tr: tr.add(b"k", 2), word(1)),
        (b"\x07", lambda tr: tr.add(b"k", 1), word(8)),
        (word(9) + b"more", lambda tr: tr.add(b"k", 1), word(10)),
        (None, lambda tr: tr.max(b"k", 5), word(5)),
        (word(3), lambda tr: tr.max(b"k", 5), word(5)),
        (word(2**63), lambda tr: tr.max(b"k", 5), word(2**63)),
        (None, lambda tr: tr.min(b"k", 5), word(5)),
        (word(3), lambda tr: tr.min(b"k", 5), word(3)),
        (word(2**63), lambda tr: tr.min(b"k", 5), word(5)),
        (word(256), lambda tr: tr.max(b"k", 255), word(256)),
    ],
)
def test_an_operation_on_what_is_stored(engine, stored, operation, expected):
    if stored is not None:
        engine.transact(lambda tr: tr.set(b"k", stored))
    engine.transact(operation)
    assert engine.read(lambda tr: tr.get(b"k")) == expected


def test_operations_of_one_transaction_apply_in_order(engine):
    engine.transact(lambda tr: tr.set(b"k", word(10)))

    def run(tr):
        tr.add(b"k", 5)
        tr.max(b"k", 12)
        tr.min(b"k", 14)
        tr.add(b"k", 1)
        return tr.get(b"k")

    assert engine.transact(run) == word(15)
    assert engine.read(lambda tr: tr.get(b"k")) == word(15)


def test_an_operation_starts_again_after_a_clear(engine):
    engine.transact(lambda tr: tr.set(b"k", word(10)))
    engine.transact(lambda tr: (tr.clear(b"k"), tr.add(b"k", 1)))
    assert engine.read(lambda tr: tr.get(b"k")) == word(1)


def test_operations_are_seen_in_ranges(engine):
    engine.transact(lambda tr: tr.set(b"b", word(1)))

    def run(tr):
        tr.add(b"b", 1)
        tr.add(b"a", 1)
        return tr.get_range(b"", b"z")

    assert engine.transact(run) == [(b"a", word(1)), (b"b", word(2))]


def test_concurrent_additions_all_count_without_a_conflict(engine):
    attempts = []

    def run(tr):
        attempts.append(1)
        tr.add(b"k", 1)

    def work(_):
        for _ in range(25):
            engine.transact(run)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert engine.read(lambda tr: tr.get(b"k")) == word(100)
    assert len(attempts) == 100


@pytest.mark.e2e
def test_additions_of_several_processes_all_count(engine, children):
    started = [children.start("add", "k", 50) for _ in range(3)]
    for child in started:
        child.join()
    assert engine.read(lambda tr: tr.get(b"k")) == word(150)


def stamped(tr):
    tr.set_versionstamped_key(b"v/", b"/end", b"value")
    return tr.versionstamp()


def test_a_versionstamped_key_holds_the_stamp_of_its_commit(engine):
    stamp = engine.transact(stamped).wait()
    assert len(stamp) == STAMP_BYTES
    pairs = engine.read(lambda tr: tr.get_range(b"v/", b"v0"))
    assert pairs == [(b"v/" + stamp + b"/end", b"value")]


def test_stamps_ascend_over_commits_and_openings(subject):
    stamps = []
    for _ in range(3):
        engine = subject.open()
        stamps += [engine.transact(stamped).wait() for _ in range(5)]
        engine.close()
    assert stamps == sorted(set(stamps))


@pytest.mark.e2e
def test_stamps_ascend_over_processes(engine, children):
    before = engine.transact(stamped).wait()
    children.start("stamp", "child/", 10).join()
    after = engine.transact(stamped).wait()
    keys = [
        key for key, _ in engine.read(lambda tr: tr.get_range(b"child/", b"child0"))
    ]
    inside = [key.removeprefix(b"child/") for key in keys]
    assert len(inside) == 10
    values = [
        value for _, value in engine.read(lambda tr: tr.get_range(b"child/", b"child0"))
    ]
    assert values == [b"%d" % number for number in range(10)]
    assert before < min(inside)
    assert max(inside) < after


def test_several_stamped_keys_of_one_transaction_share_the_stamp(engine):
    def run(tr):
        tr.set_versionstamped_key(b"a", b"1", b"x")
        tr.set_versionstamped_key(b"a", b"2", b"y")
        return tr.versionstamp()

    stamp = engine.transact(run).wait()
    assert engine.read(lambda tr: tr.get_range(b"a", b"b")) == [
        (b"a" + stamp + b"1", b"x"),
        (b"a" + stamp + b"2", b"y"),
    ]


def test_a_stamp_can_be_had_without_a_stamped_key(engine):
    first = engine.transact(lambda tr: (tr.set(b"k", b""), tr.versionstamp())[1]).wait()
    second = engine.transact(
        lambda tr: (tr.set(b"k", b""), tr.versionstamp())[1]
    ).wait()
    assert first < second


def test_without_a_commit_there_is_no_stamp(engine):
    kept = []

    def run(tr):
        tr.set(b"k", b"v")
        kept.append(tr.versionstamp())
        raise KeyError

    with pytest.raises(KeyError):
        engine.transact(run)
    kept.append(engine.transact(lambda tr: tr.versionstamp()))
    for stamp in kept:
        with pytest.raises(StoreError):
            stamp.wait()
