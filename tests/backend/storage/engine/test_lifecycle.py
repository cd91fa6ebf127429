"""Opening, checking, sizes and closing."""

from __future__ import annotations

import pytest

from backend.errors import StoreClosedError, StoreError


def test_what_was_committed_is_there_after_opening_again(subject):
    engine = subject.open()
    engine.transact(lambda tr: tr.set(b"k", b"v"))
    engine.close()
    assert subject.open().read(lambda tr: tr.get(b"k")) == b"v"


def test_check_passes_on_an_open_engine(engine):
    assert engine.check() is None


def test_two_engines_on_one_store_see_each_other(subject):
    one, two = subject.open(), subject.open()
    one.transact(lambda tr: tr.set(b"k", b"one"))
    assert two.read(lambda tr: tr.get(b"k")) == b"one"
    one.close()
    two.transact(lambda tr: tr.set(b"k", b"two"))
    assert two.read(lambda tr: tr.get(b"k")) == b"two"


def test_a_closed_engine_refuses_everything(engine):
    watch = engine.transact(lambda tr: tr.watch(b"k"))
    engine.close()
    engine.close()
    for use in (
        lambda: engine.read(lambda tr: tr.get(b"k")),
        lambda: engine.transact(lambda tr: tr.set(b"k", b"v")),
        engine.check,
        engine.size_bytes,
        lambda: watch.wait(timeout_s=1),
    ):
        with pytest.raises(StoreClosedError, match="The store is closed"):
            use()


def test_closing_one_engine_ends_its_watches_only(subject):
    one, two = subject.open(), subject.open()
    watches = [engine.transact(lambda tr: tr.watch(b"k")) for engine in (one, two)]
    one.close()
    with pytest.raises(StoreClosedError):
        watches[0].wait(timeout_s=30)
    two.transact(lambda tr: tr.set(b"k", b"v"))
    assert watches[1].wait(timeout_s=30) is True


def test_a_transaction_is_of_no_use_after_its_end(engine):
    kept = []
    engine.transact(kept.append)
    engine.read(kept.append)
    for tr in kept:
        with pytest.raises(StoreError):
            tr.get(b"k")
        with pytest.raises(StoreError):
            tr.get_range(b"a", b"z")


def test_the_size_grows_with_what_is_stored(engine):
    before = engine.size_bytes()

    def fill(tr):
        for number in range(90):
            tr.set(b"%04d" % number, b"x" * 100_000)

    engine.transact(fill)
    assert engine.size_bytes() >= before > 0
