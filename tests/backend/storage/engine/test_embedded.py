"""What is LMDB's alone: the memory map, the files, dead readers, full disks."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import lmdb
import pytest

from backend.errors import (
    NetworkFilesystemError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    TransactionTooOldError,
)
from backend.storage.engine.base import Limits
from backend.storage.engine.embedded import EmbeddedEngine
from backend.storage.engine.embedded_gate import WriterLock
from tests.backend.storage.engine.children import Children
from tests.backend.storage.engine.subjects import Spec

KB = 1024
MB = 1024 * KB
PATIENCE_S = 30


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def opened():
    """Opens engines and closes them after the test."""
    engines = []

    def open_engine(path, **options):
        engines.append(EmbeddedEngine(path, **{"durable": False, **options}))
        return engines[-1]

    yield open_engine
    for engine in engines:
        engine.close()


@pytest.fixture
def children(path):
    started = Children(
        Spec(
            "backend.storage.engine.embedded.EmbeddedEngine",
            {"path": str(path), "durable": False},
        )
    )
    yield started
    started.stop()


def write_mb(engine, prefix: bytes, megabytes: int) -> None:
    for number in range(megabytes):

        def write(tr):
            for item in range(10):
                key = b"%b/%04d/%d" % (prefix, number, item)  # noqa: B023
                tr.set(key, b"x" * 100_000)

        engine.transact(write)


def count(engine, prefix: bytes) -> int:
    return len(engine.read(lambda tr: tr.get_range(prefix + b"/", prefix + b"0")))


# Files


def test_the_directory_is_for_its_owner_only(path, opened):
    opened(path / "deep").transact(lambda tr: tr.set(b"k", b"v"))
    assert stat.S_IMODE((path / "deep").stat().st_mode) == 0o700
    for file in (path / "deep").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_path_that_is_a_file_is_refused(path, opened):
    path.write_text("not a directory")
    with pytest.raises(StoreUnavailableError) as caught:
        opened(path)
    assert caught.value.fields["path"] == str(path)


def test_a_directory_of_something_else_is_refused(path, opened):
    path.mkdir()
    (path / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(StoreError) as caught:
        opened(path)
    assert str(path) in str(caught.value)


def test_a_network_file_system_is_refused_unless_allowed(path, opened, monkeypatch):
    monkeypatch.setattr(
        "backend.storage.engine.filesystems._read_mounts",
        lambda: (
            "/dev/sda / ext4 rw 0 0\nserver:/x /tmp nfs4 rw 0 0\n"
            f"server:/y {path.parent} nfs4 rw 0 0\n"
        ),
    )
    with pytest.raises(NetworkFilesystemError, match="local disk") as caught:
        opened(path)
    assert caught.value.fields == {"path": str(path), "filesystem": "nfs4"}
    assert not path.exists()
    opened(path, allow_network_filesystem=True).check()


def test_one_directory_is_opened_once_however_it_is_named(path, opened, tmp_path):
    one = opened(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    two = opened(link)
    one.transact(lambda tr: tr.set(b"k", b"v"))
    assert two.read(lambda tr: tr.get(b"k")) == b"v"
    one.close()
    two.check()
    two.close()
    # Given back entirely: LMDB itself may open it again.
    lmdb.open(str(path)).close()


def test_opening_twice_with_another_durability_is_refused(path, opened):
    opened(path)
    with pytest.raises(StoreError, match="durable"):
        opened(path, durable=True)


def test_a_copied_directory_is_a_store_of_its_own(path, opened, tmp_path):
    engine = opened(path)
    engine.transact(lambda tr: tr.set(b"k", b"v"))
    engine.close()
    shutil.copytree(path, tmp_path / "copy")
    copy = opened(tmp_path / "copy")
    copy.transact(lambda tr: tr.set(b"k", b"copy"))
    assert opened(path).read(lambda tr: tr.get(b"k")) == b"v"


# The memory map


def test_the_map_grows_while_it_is_written(path, opened):
    engine = opened(path, map_bytes=MB)
    write_mb(engine, b"a", 9)
    assert count(engine, b"a") == 90
    assert engine.size_bytes() > 9 * 1000 * 1000


@pytest.mark.e2e
def test_the_map_grows_in_several_processes_at_once(path, opened, children):
    engine = opened(path, map_bytes=MB)
    writers = [
        children.start("fill", prefix, 4, 10, map_bytes=MB) for prefix in ("a", "b")
    ]
    write_mb(engine, b"c", 4)
    for writer in writers:
        assert writer.read() == "filled"
        writer.join()
    assert [count(engine, prefix) for prefix in (b"a", b"b", b"c")] == [40, 40, 40]


@pytest.mark.e2e
def test_a_process_adopts_the_growth_of_another(path, opened, children):
    engine = opened(path, map_bytes=MB)
    reader = children.start("read_when_told", "k", map_bytes=MB)
    assert reader.read() == "ready"
    write_mb(engine, b"a", 5)
    engine.transact(lambda tr: tr.set(b"k", b"after"))
    reader.tell()
    assert reader.read() == "after"


def test_a_running_transaction_is_waited_for_before_the_map_grows(path, opened):
    engine = opened(path, map_bytes=MB)
    engine.transact(lambda tr: tr.set(b"k", b"v"))
    reading, go_on = threading.Event(), threading.Event()
    attempts = []

    def read(tr):
        attempts.append(tr.get(b"k"))
        reading.set()
        assert go_on.wait(PATIENCE_S)
        return tr.get(b"k")

    with ThreadPoolExecutor(2) as threads:
        reader = threads.submit(engine.read, read)
        assert reading.wait(PATIENCE_S)
        writer = threads.submit(write_mb, engine, b"a", 4)
        go_on.set()
        assert reader.result(PATIENCE_S) == b"v"
        writer.result(PATIENCE_S)
    assert attempts == [b"v"]


def test_a_reader_that_never_ends_does_not_stop_the_growth(path, opened):
    engine = opened(
        path, map_bytes=MB, limits=Limits(transaction_seconds=0.2), clock=lambda: 0.0
    )
    engine.transact(lambda tr: tr.set(b"k", b"v"))
    reading, go_on = threading.Event(), threading.Event()
    attempts = []

    def read(tr):
        attempts.append(tr.get(b"k"))
        if len(attempts) == 1:
            reading.set()
            assert go_on.wait(PATIENCE_S)
        return tr.get_range(b"k", b"l")

    with ThreadPoolExecutor(1) as threads:
        reader = threads.submit(engine.read, read)
        assert reading.wait(PATIENCE_S)
        write_mb(engine, b"a", 3)
        go_on.set()
        # Its version is gone, so it is run again on a new one.
        assert reader.result(PATIENCE_S) == [(b"k", b"v")]
    assert attempts == [b"v", b"v"]


def test_a_read_inside_a_transaction_does_not_wait_for_itself(path, opened):
    engine = opened(path, map_bytes=MB, limits=Limits(transaction_seconds=0.2))

    def outer(tr):
        before = tr.get(b"k")
        write_mb(engine, b"a", 3)
        return before, engine.read(lambda inner: inner.get(b"k"))

    assert engine.read(outer) == (None, None)


# No room


def test_a_full_store_says_so_and_is_usable_after_clearing(path, opened):
    engine = opened(path, map_bytes=MB, max_map_bytes=4 * MB)
    with pytest.raises(StoreFullError, match="nothing was lost") as caught:
        write_mb(engine, b"a", 5)
    assert caught.value.fields["limit"] == 4 * MB
    assert caught.value.fields["path"] == str(path)
    kept = count(engine, b"a")
    assert 10 <= kept <= 40
    for _ in range(3):
        engine.transact(lambda tr: tr.clear_range(b"a/", b"a0"))
        assert count(engine, b"a") == 0
        write_mb(engine, b"a", 2)
        assert count(engine, b"a") == 20
        with pytest.raises(StoreFullError):
            write_mb(engine, b"b", 5)
        engine.transact(lambda tr: tr.clear_range(b"b/", b"b0"))
    assert engine.size_bytes() <= 4 * MB * 17 // 16


def test_a_full_store_can_be_cleared_key_by_key(path, opened):
    engine = opened(path, map_bytes=MB, max_map_bytes=2 * MB)

    def write_until_full():
        for number in range(100_000):
            engine.transact(lambda tr: tr.set(b"%06d" % number, b"x" * 2000))  # noqa: B023

    with pytest.raises(StoreFullError):
        write_until_full()
    pairs = engine.read(lambda tr: tr.get_range(b"", b"\xff"))
    assert len(pairs) > 100
    for key, _ in pairs[::2]:
        engine.transact(lambda tr: tr.clear(key))  # noqa: B023
    for number in range(20):
        engine.transact(lambda tr: tr.set(b"new%d" % number, b"x" * 2000))  # noqa: B023


def test_one_that_does_not_fit_takes_no_neighbour_with_it(path, opened):
    engine = opened(path, map_bytes=2 * MB, max_map_bytes=2 * MB)
    start = threading.Barrier(4, timeout=PATIENCE_S)

    def write(number):
        start.wait()
        size = 40 if number == 0 else 1

        def fill(tr):
            for item in range(size):
                tr.set(b"%d/%d" % (number, item), b"x" * 90_000)

        engine.transact(fill)

    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(write, number) for number in range(4)]
        with pytest.raises(StoreFullError):
            done[0].result(PATIENCE_S)
        for other in done[1:]:
            other.result(PATIENCE_S)
    keys = [key for key, _ in engine.read(lambda tr: tr.get_range(b"", b"\xff"))]
    assert keys == [b"1/0", b"2/0", b"3/0"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MB."""
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount_point)]
    if os.getuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("mounting a file system needs more rights than this user has")
    yield mount_point
    subprocess.run(["umount", "-l", str(mount_point)], check=True)


@pytest.mark.parametrize("durable", [False, True])
def test_a_full_disk_says_so_and_nothing_is_lost(small_disk, opened, durable):
    engine = opened(small_disk / "store", durable=durable)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 2 * MB)
    with pytest.raises(StoreFullError) as caught:
        write_mb(engine, b"a", 6)
    assert caught.value.fields["reason"] == os.strerror(28)
    kept = count(engine, b"a")
    assert 10 <= kept < 60
    with pytest.raises(StoreFullError):
        write_mb(engine, b"b", 2)
    ballast.unlink()
    write_mb(engine, b"b", 1)
    assert count(engine, b"a") == kept
    assert count(engine, b"b") == 10
    engine.close()
    again = opened(small_disk / "store", durable=durable)
    assert (count(again, b"a"), count(again, b"b")) == (kept, 10)


def test_no_room_to_create_it_says_so(small_disk, opened):
    (small_disk / "ballast").write_bytes(b"x" * (6 * MB - 64 * KB))
    with pytest.raises(StoreFullError):
        opened(small_disk / "store")


# Readers


@pytest.mark.e2e
def test_a_reader_killed_in_its_transaction_is_removed(path, opened, children):
    engine = opened(path)
    engine.transact(lambda tr: tr.set(b"k", b"v"))
    child = children.start("hold_snapshot", "k")
    assert child.read() == "ready"
    child.kill()
    engine.close()
    engine = opened(path)
    for number in range(60):
        engine.transact(lambda tr: tr.set(b"k", b"%d" % number * 50_000))  # noqa: B023
    # With the dead reader in place no page would be used twice: 60 × 100 kB.
    assert engine.size_bytes() < 1 * MB


@pytest.mark.e2e
def test_a_dead_reader_is_found_before_the_store_counts_as_full(path, opened, children):
    limit = 2 * MB
    engine = opened(path, map_bytes=limit, max_map_bytes=limit)
    engine.transact(lambda tr: tr.set(b"k", b"v"))
    child = children.start("hold_snapshot", "k", map_bytes=limit)
    assert child.read() == "ready"
    child.kill()
    for number in range(100):
        engine.transact(lambda tr: tr.set(b"k", b"%d" % number * 50_000))  # noqa: B023


def test_too_many_readers_are_told_so_and_later_ones_served(path, opened):
    engine = opened(path, max_readers=4)
    engine.transact(lambda tr: tr.set(b"k", b"v"))
    slots = lmdb_readers(engine)
    inside = threading.Barrier(slots + 1, timeout=PATIENCE_S)
    leave = threading.Event()

    def hold(tr):
        tr.get(b"k")
        inside.wait()
        assert leave.wait(PATIENCE_S)

    with ThreadPoolExecutor(slots) as threads:
        holding = [threads.submit(engine.read, hold) for _ in range(slots)]
        inside.wait()
        with pytest.raises(StoreUnavailableError, match="reader slot"):
            engine.read(lambda tr: tr.get(b"k"))
        leave.set()
        for held in holding:
            held.result(PATIENCE_S)
    assert engine.read(lambda tr: tr.get(b"k")) == b"v"


def lmdb_readers(engine) -> int:
    return engine._environment._env.info()["max_readers"]


def test_a_read_held_too_long_is_refused(path, opened):
    now_s = [0.0]
    engine = opened(path, clock=lambda: now_s[0])

    def slow(tr):
        tr.get(b"k")
        now_s[0] += 6
        return tr.get_range(b"a", b"z")

    with pytest.raises(TransactionTooOldError) as caught:
        engine.read(slow)
    assert caught.value.fields == {"limit_seconds": 5.0}


# The right to commit


def test_a_writer_that_stands_still_is_not_waited_for_for_ever(path, opened):
    engine = opened(path)
    engine.transact(lambda tr: tr.set(b"k", b"v"))
    # As another process would hold it; record locks do not work within one process.
    lock = subprocess.Popen(
        [
            "python3",
            "-c",
            (
                "import fcntl, sys\n"
                f"file = open({str(path / 'commit.lock')!r}, 'r+')\n"
                "fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)\n"
                "print('held', flush=True)\n"
                "sys.stdin.read()\n"
            ),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert lock.stdout.readline() == b"held\n"
        with pytest.raises(StoreUnavailableError, match="right to commit"):
            engine.transact(lambda tr: tr.set(b"k", b"late"), timeout_s=0.1)
        assert engine.read(lambda tr: tr.get(b"k")) == b"v"
        with ThreadPoolExecutor(4) as threads:
            waiting = [
                threads.submit(
                    engine.transact, lambda tr: tr.add(b"n", 1), timeout_s=PATIENCE_S
                )
                for _ in range(4)
            ]
            lock.kill()
            for done in waiting:
                done.result(PATIENCE_S)
    finally:
        lock.kill()
        lock.wait()
        lock.stdin.close()
        lock.stdout.close()
    count_stored = engine.read(lambda tr: tr.get(b"n"))
    assert int.from_bytes(count_stored, "little") == 4


def test_who_has_written_queues_behind_who_waits(tmp_path):
    """The turnstile is what the waiting one holds."""
    lock = WriterLock(tmp_path / "lock")
    lock.acquire(deadline_s=time.monotonic() + PATIENCE_S)
    pid = os.fork()
    if pid == 0:
        other = os.open(tmp_path / "lock", os.O_RDWR)
        held = 0
        for offset in (0, 1):
            try:
                fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            except BlockingIOError:
                held += offset + 1
        os._exit(held)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    lock.release()
    lock.close()
    lock.close()


# Commits shared by threads


def test_threads_share_the_disk_writes_of_their_commits(path, opened):
    engine = opened(path, durable=True)
    engine.transact(lambda tr: tr.set(b"k", b""))
    before = engine._environment.last_commit()
    start = threading.Barrier(16, timeout=PATIENCE_S)

    def work(number):
        start.wait()
        for turn in range(5):
            engine.transact(lambda tr: tr.set(b"%d/%d" % (number, turn), b""))  # noqa: B023

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))
    assert len(engine.read(lambda tr: tr.get_range(b"0", b"9z"))) == 80
    assert engine._environment.last_commit() - before < 80


def test_a_mark_of_a_declared_write_is_not_kept_for_ever(path, opened):
    engine = opened(path, limits=Limits(transaction_seconds=0.001))
    for _ in range(50):
        engine.transact(lambda tr: tr.add_write_conflict_range(b"a", b"b"))
        time.sleep(0.001)
    with engine._environment.begin() as txn:
        marks = [key for key, _ in txn.cursor().iternext() if key > b"\xffmarks"]
    assert 1 <= len(marks) < 30
