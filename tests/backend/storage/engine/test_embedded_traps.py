"""LMDB among busy threads, and after it has given its files up."""

from __future__ import annotations

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import lmdb
import pytest

from backend.errors import StoreUnavailableError, TransactionConflictError
from backend.storage.engine.embedded import EmbeddedEngine
from backend.storage.engine.embedded_watch import EmbeddedWatch

MB = 1 << 20
PATIENCE_S = 30
OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture
def engine(tmp_path):
    with closing(
        EmbeddedEngine(tmp_path / "store", durable=False, map_bytes=4 * MB)
    ) as opened:
        yield opened


@contextmanager
def steady_readers(engine, number=6):
    """Threads of which always one at least is inside LMDB."""
    stop = threading.Event()
    started = threading.Barrier(number + 1, timeout=PATIENCE_S)

    def read():
        engine.read(lambda tr: tr.get(b"k"))
        started.wait()
        while not stop.is_set():
            engine.read(lambda tr: tr.get_range(b"r", b"s"))

    with ThreadPoolExecutor(number) as threads:
        reading = [threads.submit(read) for _ in range(number)]
        started.wait()
        try:
            yield
        finally:
            stop.set()
        for reader in reading:
            reader.result(PATIENCE_S)


@pytest.fixture
def filled(engine):
    def fill(tr):
        for number in range(20_000):
            tr.set(b"r%05d" % number, b"x" * 20)

    engine.transact(fill)
    return engine


@pytest.mark.timeout(60)
def test_conflicts_are_told_at_once_while_others_read(filled):
    attempts = []

    def conflicting(tr):
        attempts.append(tr.get(b"k"))
        if len(attempts) % 2:
            filled.transact(lambda other: other.set(b"k", b"%d" % len(attempts)))
        tr.set(b"k", b"mine")

    with steady_readers(filled):
        for _ in range(10):
            filled.transact(conflicting, timeout_s=5)
    assert len(attempts) == 20


@pytest.mark.timeout(60)
def test_the_map_grows_while_others_read(filled):
    with steady_readers(filled):
        for number in range(10):
            filled.transact(
                lambda tr: [
                    tr.set(b"big%d/%d" % (number, item), b"x" * 100_000)  # noqa: B023
                    for item in range(10)
                ]
            )
    assert len(filled.read(lambda tr: tr.get_range(b"big", b"bih"))) == 100


def test_a_watch_that_looks_before_a_commit_can_be_read_looks_again():
    """LMDB shows a commit's number while its last write is still under way."""
    shown = [1, 2, 2]
    readable = [(1, b"old"), (1, b"old"), (2, b"new")]
    watch = EmbeddedWatch(
        changed=threading.Condition(),
        last_commit=lambda: shown.pop(0),
        read=lambda key: readable.pop(0),
        key=b"k",
        value=b"old",
    )
    watch.activate()
    assert watch.wait(timeout_s=PATIENCE_S) is True
    assert (shown, readable) == ([], [])


# A write of LMDB's root page that failed: it refuses everything until opened anew.


@contextmanager
def root_page_not_writable(engine):
    """Take from LMDB the descriptor it writes its root page with."""
    data = engine._environment.path / "data.mdb"
    (descriptor,) = (
        int(entry.name)
        for entry in OPEN_FILES.iterdir()
        if entry.exists()
        and entry.readlink() == data
        and fcntl.fcntl(int(entry.name), fcntl.F_GETFL) & os.O_DSYNC
    )
    read_only = os.open(data, os.O_RDONLY)
    os.dup2(read_only, descriptor)
    os.close(read_only)
    yield


@pytest.fixture
def durable(tmp_path):
    if not OPEN_FILES.is_dir():
        pytest.skip("needs /proc to find the descriptor")
    with closing(EmbeddedEngine(tmp_path / "durable")) as opened:
        opened.transact(lambda tr: tr.set(b"k", b"kept"))
        yield opened


def test_a_root_page_that_cannot_be_written_costs_that_commit_only(durable):
    with root_page_not_writable(durable), pytest.raises(StoreUnavailableError):
        durable.transact(lambda tr: tr.set(b"lost", b""))
    assert durable.read(lambda tr: tr.get_range(b"a", b"z")) == [(b"k", b"kept")]
    durable.transact(lambda tr: tr.set(b"more", b""))
    assert durable.read(lambda tr: tr.get(b"more")) == b""


def test_opening_anew_is_tried_again_until_it_succeeds(durable, monkeypatch):
    with root_page_not_writable(durable), pytest.raises(StoreUnavailableError):
        durable.transact(lambda tr: tr.set(b"lost", b""))

    class Refusal(lmdb.Error):
        code = 24

    def refuse(*arguments, **options):
        raise Refusal

    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "open", refuse)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                durable.read(lambda tr: tr.get(b"k"), timeout_s=5)
    assert durable.read(lambda tr: tr.get(b"k")) == b"kept"


def test_conflicts_remain_conflicts(engine):
    """What ends a group in which nothing was applied does not apply it."""

    def conflicting(tr):
        tr.get(b"k")
        engine.transact(lambda other: other.add(b"k", 1))
        tr.set(b"k", b"mine")

    with pytest.raises(TransactionConflictError):
        engine.transact(conflicting, timeout_s=0.05)
    assert engine.read(lambda tr: tr.get(b"k")) != b"mine"
