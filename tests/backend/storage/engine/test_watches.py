"""A watch tells of a change, from this process and from another."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.errors import StoreError

SOON_S = 30.0
"""Bound of a wait that must succeed; a working engine needs milliseconds."""

NEVER_S = 0.1
"""Bound of a wait that must not succeed."""


def watch_of(engine, key=b"k"):
    return engine.transact(lambda tr: tr.watch(key))


@pytest.mark.parametrize(
    "change",
    [
        lambda tr: tr.set(b"k", b"new"),
        lambda tr: tr.clear(b"k"),
        lambda tr: tr.clear_range(b"a", b"z"),
        lambda tr: tr.add(b"k", 1),
    ],
)
def test_a_change_wakes_the_watch(engine, change):
    engine.transact(lambda tr: tr.set(b"k", b"old"))
    watch = watch_of(engine)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(watch.wait, timeout_s=SOON_S)
        engine.transact(change)
        assert waiting.result(SOON_S) is True


def test_a_change_before_the_wait_is_not_missed(engine):
    watch = watch_of(engine)
    engine.transact(lambda tr: tr.set(b"k", b"new"))
    assert watch.wait(timeout_s=SOON_S) is True


def test_without_a_change_the_wait_ends_with_its_time(engine):
    watch = watch_of(engine)
    engine.transact(lambda tr: tr.set(b"other", b"new"))
    assert watch.wait(timeout_s=NEVER_S) is False
    engine.transact(lambda tr: tr.set(b"k", b"new"))
    assert watch.wait(timeout_s=SOON_S) is True


def test_a_watch_starts_from_what_its_own_transaction_wrote(engine):
    def run(tr):
        tr.set(b"k", b"mine")
        return tr.watch(b"k")

    watch = engine.transact(run)
    assert watch.wait(timeout_s=NEVER_S) is False
    engine.transact(lambda tr: tr.set(b"k", b"theirs"))
    assert watch.wait(timeout_s=SOON_S) is True


@pytest.mark.e2e
def test_a_change_by_another_process_wakes_the_watch(engine, children):
    child = children.start("set_when_told", "k", "new")
    assert child.read() == "ready"
    watch = watch_of(engine)
    child.tell()
    assert watch.wait(timeout_s=SOON_S) is True
    child.join()
    assert engine.read(lambda tr: tr.get(b"k")) == b"new"


def test_many_watches_of_one_key_all_wake(engine):
    watches = [watch_of(engine) for _ in range(50)]
    engine.transact(lambda tr: tr.set(b"k", b"new"))
    assert [watch.wait(timeout_s=SOON_S) for watch in watches] == [True] * 50


def test_a_cancelled_watch_waits_no_longer(engine):
    watch = watch_of(engine)
    started = threading.Event()

    def wait():
        started.set()
        return watch.wait(timeout_s=10 * SOON_S)

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(wait)
        assert started.wait(SOON_S)
        watch.cancel()
        watch.cancel()
        assert waiting.result(SOON_S) is False
    assert watch.wait(timeout_s=10 * SOON_S) is False


def test_a_watch_of_a_failed_transaction_says_so(engine):
    kept = []

    def run(tr):
        kept.append(tr.watch(b"k"))
        raise KeyError

    with pytest.raises(KeyError):
        engine.transact(run)
    with pytest.raises(StoreError):
        kept[0].wait(timeout_s=SOON_S)
