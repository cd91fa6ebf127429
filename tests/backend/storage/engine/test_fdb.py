"""What is FoundationDB's alone: loading, opening, a cluster that fails, buggify."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.errors import (
    CommitUnknownResultError,
    KeyOutsideRangeError,
    StoreError,
    StoreUnavailableError,
    TransactionConflictError,
    TransactionTooLargeError,
    TransactionTooOldError,
)
from backend.storage.engine.base import Limits
from backend.storage.engine.fdb import FdbEngine
from backend.storage.engine.fdb_errors import PassingTroubleError, translate
from tests.backend.storage.engine.children import Children
from tests.backend.storage.engine.subjects import KINDS, Place, Spec, Subject
from tests.services import foundationdb
from tests.services.foundationdb import FoundationDbNode
from tests.services.requirements import require

ROOT = Path(__file__).parents[4]
PATIENCE_S = 60.0


# Without a cluster


def test_importing_the_engine_does_not_load_the_library():
    code = "import sys, backend.storage.engine.fdb; sys.exit('fdb.impl' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": "client/src"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, check=False
    )
    assert done.returncode == 0


def test_a_missing_library_is_said():
    """In a process of its own: one that has the library keeps it."""
    code = (
        "from backend.storage.engine.fdb import FdbEngine\n"
        "from backend.errors import StoreUnavailableError\n"
        "try: FdbEngine(library='/nowhere/libfdb_c.so')\n"
        "except StoreUnavailableError as error: print(error)\n"
    )
    environ = {**os.environ, "PYTHONPATH": "client/src", "LD_LIBRARY_PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environ,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "libfdb_c cannot be loaded: /nowhere/libfdb_c.so" in done.stdout


@pytest.mark.parametrize(
    ("code", "retryable", "maybe_committed", "expected"),
    [
        (1007, True, False, TransactionTooOldError),
        (1009, True, False, PassingTroubleError),
        (1020, True, False, TransactionConflictError),
        (1021, True, True, CommitUnknownResultError),
        (1031, False, False, StoreUnavailableError),
        (1037, True, False, PassingTroubleError),
        (1039, True, True, CommitUnknownResultError),
        (2004, False, False, KeyOutsideRangeError),
        (2101, False, False, TransactionTooLargeError),
        (9999, False, False, StoreError),
    ],
)
def test_codes_become_our_errors(code, retryable, maybe_committed, expected):
    error = translate(
        code, "text", retryable=retryable, maybe_committed=maybe_committed
    )
    assert type(error) is expected or (code == 1007 and isinstance(error, expected))
    assert error.fields["fdb_code"] == code


# With the session's node


@pytest.fixture
def fdb(tmp_path: Path, required_services: frozenset[str]) -> Iterator[Subject]:
    with KINDS["fdb"](Place(tmp_path, required_services)) as spec:
        subject = Subject(spec)
        yield subject
        subject.close()


needs_fdb = pytest.mark.fdb


@needs_fdb
@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no cluster file"), ("nonsense", "no connection string")],
)
def test_a_bad_cluster_file_is_said(fdb, tmp_path, content, reason):
    path = tmp_path / "fdb.cluster"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StoreUnavailableError, match=reason):
        FdbEngine(path, library=fdb.spec.options["library"]).check()


@needs_fdb
def test_an_unreachable_cluster_is_unavailable_in_time(fdb, tmp_path):
    path = tmp_path / "fdb.cluster"
    path.write_text("nobody:here@127.0.0.1:1")
    engine = FdbEngine(path, library=fdb.spec.options["library"])
    for use in (
        engine.check,
        lambda: engine.read(lambda tr: tr.get(b"k"), timeout_s=0.2),
        lambda: engine.transact(lambda tr: tr.set(b"k", b"v"), timeout_s=0.2),
    ):
        with pytest.raises(StoreUnavailableError, match="unreachable"):
            use()


@needs_fdb
def test_the_clusters_own_limit_of_a_transaction_holds(fdb):
    """Also when the engine is asked for more than FoundationDB allows."""
    engine = fdb.open(limits=Limits(transaction_bytes=100_000_000))

    def fill(tr):
        for number in range(120):
            tr.set(b"%04d" % number, b"x" * 90_000)

    with pytest.raises(TransactionTooLargeError, match="Split the write"):
        engine.transact(fill)


@needs_fdb
def test_a_range_of_several_batches_arrives_whole(fdb):
    engine = fdb.open()
    for start in range(0, 600, 60):
        engine.transact(
            lambda tr, start=start: [
                tr.set(b"%04d" % number, b"%d" % number * 9_000)
                for number in range(start, start + 60)
            ]
        )
    for reverse in (False, True):
        pairs = engine.read(
            lambda tr, reverse=reverse: tr.get_range(b"0", b"9", reverse=reverse)
        )
        assert [int(key) for key, _ in pairs] == sorted(range(600), reverse=reverse)
        assert all(value == b"%d" % int(key) * 9_000 for key, value in pairs)


@needs_fdb
def test_more_reads_than_are_in_flight_at_once(fdb):
    engine = fdb.open()
    keys = [b"%04d" % number for number in range(3_000)]
    engine.transact(lambda tr: [tr.set(key, key) for key in keys[::2]])
    found = engine.read(lambda tr: tr.get_many(keys))
    assert found[::2] == keys[::2]
    assert set(found[1::2]) == {None}


@needs_fdb
def test_a_forgotten_watch_is_given_up(fdb):
    engine = fdb.open()
    for _ in range(50):
        engine.transact(lambda tr: tr.watch(b"k"))
    gc.collect()
    assert len(engine._watches) == 0


@needs_fdb
def test_threads_share_an_engine(fdb):
    engine = fdb.open()

    def work(number):
        for turn in range(30):
            key = b"%d/%d" % (number, turn)
            engine.transact(lambda tr, key=key: tr.set(key, key))
            assert engine.read(lambda tr, key=key: tr.get(key)) == key

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert len(engine.read(lambda tr: tr.get_range(b"0", b"9"))) == 240


@needs_fdb
@pytest.mark.e2e
def test_a_forked_child_cannot_open_an_engine_of_its_own(fdb):
    engine = fdb.open()
    engine.check()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            fdb.spec.open()
        except StoreUnavailableError as error:
            os.write(write_end, str(error).encode())
        os._exit(0)
    os.close(write_end)
    answer = os.read(read_end, 1000)
    os.close(read_end)
    os.waitpid(pid, 0)
    assert b"before the fork" in answer
    engine.check()


# With the client's own faults


@needs_fdb
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(
    "suite",
    [
        "tests/backend/storage/engine",
        "tests/backend/services/test_ingestion_properties.py",
    ],
)
def test_a_suite_passes_under_buggify(required_services, suite):
    """In a process of its own, on the same node: the fault injection is for good."""
    with foundationdb.clean_cluster(required_services) as options:
        environ = {
            **os.environ,
            foundationdb.BUGGIFY: "1",
            "MATYAN_TEST_FDB_CLUSTER_FILE": options["cluster_file"],
        }
        words = ["-q", "-m", "fdb and not exact", "-k", "not test_fdb"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words, suite],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout


@needs_fdb
@pytest.mark.e2e
@pytest.mark.parametrize("attempt", range(3))
def test_idempotent_writes_come_out_right_under_buggify(fdb, attempt):
    engine = fdb.open()
    children = Children(fdb.spec)
    try:
        started = [
            children.start("append_once", f"{name}", 40, buggify=True)
            for name in range(3)
        ]
        for child in started:
            child.join()
    finally:
        children.stop()
    for name in range(3):
        total = engine.read(lambda tr, name=name: tr.get(b"%d/sum" % name))
        assert int.from_bytes(total, "little") == sum(range(40))


# With a node of its own, which fails


@pytest.fixture
def node(tmp_path: Path, required_services: frozenset[str]):
    require("fdb", foundationdb.missing(), required_services)
    started = FoundationDbNode(tmp_path)
    if not started.can_be_killed:
        pytest.skip("A cluster of somebody else is not killed")
    with started:
        yield started


def spec_of(node: FoundationDbNode) -> Spec:
    return Spec(
        "backend.storage.engine.fdb.FdbEngine",
        {"cluster_file": node.cluster_file, "library": foundationdb.library_path()},
    )


@needs_fdb
@pytest.mark.e2e
def test_a_cluster_that_stands_still_is_unavailable_then_goes_on(node):
    engine = spec_of(node).open()
    engine.transact(lambda tr: tr.set(b"k", b"before"))
    node.pause()
    try:
        with pytest.raises(StoreUnavailableError):
            engine.check()
        with pytest.raises(StoreUnavailableError):
            engine.transact(lambda tr: tr.set(b"lost", b""), timeout_s=1)
        waiting = threading.Thread(
            target=engine.transact,
            args=(lambda tr: tr.set(b"k", b"after"),),
            kwargs={"timeout_s": PATIENCE_S},
        )
        waiting.start()
    finally:
        node.resume()
    waiting.join(PATIENCE_S)
    assert engine.read(lambda tr: tr.get(b"k"), timeout_s=PATIENCE_S) == b"after"


@needs_fdb
@pytest.mark.e2e
def test_a_node_killed_under_load_loses_nothing_acknowledged(node):
    engine = spec_of(node).open()
    acknowledged = []
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            engine.transact(
                lambda tr, number=number: tr.set(b"n/%06d" % number, b""),
                timeout_s=PATIENCE_S,
            )
            acknowledged.append(number)
            number += 1

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        for _ in range(2):
            seen = len(acknowledged)
            deadline = time.monotonic() + PATIENCE_S
            while len(acknowledged) < seen + 50:
                assert time.monotonic() < deadline
                assert not writing.done()
                time.sleep(0.01)
            node.kill()
            node.start()
        stop.set()
        writing.result(PATIENCE_S)
    pairs = engine.read(lambda tr: tr.get_range(b"n/", b"n0"), timeout_s=PATIENCE_S)
    assert [int(key[2:]) for key, _ in pairs] == acknowledged
