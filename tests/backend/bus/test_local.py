"""The local event log: limits, growth, a full disk, a stuck writer, forks, formats."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lmdb
import pytest

from backend.bus.base import TopicSpec
from backend.bus.factory import open_event_log
from backend.bus.local import LocalEventLog
from backend.errors import (
    EventLogClosedError,
    EventLogError,
    EventLogFullError,
    EventLogUnavailableError,
    FormatError,
)
from tests.backend.bus.harness import (
    PATIENCE_S,
    ROOT,
    everything,
    next_offsets,
    numbered,
    publish,
    take,
    values,
    wait_for,
)

TOPIC = TopicSpec("topic", 2, 1 << 20, 0.0, ("readers",))


@pytest.fixture
def path(data_dir: Path) -> Path:
    return data_dir / "log"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def open_log(path: Path, stack: ExitStack, **options) -> LocalEventLog:
    log = LocalEventLog(path, **options)
    stack.callback(log.close)
    log.ensure_topics([TOPIC])
    return log


def run(code: str, path: Path) -> str:
    """Run code in another process; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def stuck_writer(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process holds the one write lock."""
    code = (
        "import lmdb, sys\n"
        "env = lmdb.open(sys.argv[1], max_dbs=4, map_size=1 << 30)\n"
        "with env.begin(write=True):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_the_map_grows_under_every_process(path: Path, stack: ExitStack):
    log = open_log(path, stack, map_bytes=1 << 17)
    big = [(b"k", b"x" * 100_000)] * 20
    publish(log.producer(), TOPIC, big)
    run(
        "import sys\n"
        "from backend.bus.local import LocalEventLog\n"
        "log = LocalEventLog(sys.argv[1], map_bytes=1 << 17)\n"
        "for _ in range(100):\n"
        "    f = log.producer().publish('topic', key=b'k', value=b'y' * 100_000)\n"
        "f.result(60)\n"
        "log.close()\n",
        path,
    )
    assert len(everything(log, TOPIC)) == 120
    publish(log.producer(), TOPIC, big)
    assert len(everything(log, TOPIC)) == 140


def test_the_map_grows_while_threads_read_and_write(path: Path, stack: ExitStack):
    log = open_log(path, stack, map_bytes=1 << 17)
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            log.lag(group="readers", topics=["topic"])

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    publish(log.producer(), TOPIC, [(b"k", b"x" * 50_000)] * 100)
    done.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(everything(log, TOPIC)) == 100


def test_a_log_at_its_limit_refuses_until_there_is_room(path: Path, stack: ExitStack):
    log = open_log(path, stack, max_bytes=1_000_000)
    producer = log.producer()
    futures = [
        producer.publish("topic", key=b"k", value=b"x" * 50_000) for _ in range(60)
    ]
    with pytest.raises(EventLogFullError, match="size is reached"):
        futures[-1].result(PATIENCE_S)
    stored = [f for f in futures if f.exception(PATIENCE_S) is None]
    assert 0 < len(stored) < 60
    assert [f.result().offset for f in stored] == [*range(len(stored))]
    assert stored == futures[: len(stored)]
    with pytest.raises(EventLogFullError, match="size is reached"):
        publish(producer, TOPIC, [(b"k", b"x" * 50_000)])
    assert len(everything(log, TOPIC)) == len(stored)
    consumer = log.consumer(group="readers", topics=["topic"])
    consumer.commit(next_offsets(take(consumer, len(stored))))
    consumer.close()
    publish(producer, TOPIC, [(b"k", b"x" * 50_000)] * 5)


def test_a_log_at_its_limit_says_so_when_checked(path: Path, stack: ExitStack):
    log = open_log(path, stack, max_bytes=100_000)
    publish(log.producer(), TOPIC, [(b"k", b"x" * 90_000)])
    log.check()
    tight = open_log(path, stack, max_bytes=90_000)
    with pytest.raises(EventLogFullError, match="size is reached"):
        tight.check()


def test_a_nearly_full_disk_is_left_to_the_consumers(path: Path, stack: ExitStack):
    log = open_log(path, stack)
    publish(log.producer(), TOPIC, numbered(10))
    tight = open_log(path, stack, min_free_bytes=1 << 60)
    with pytest.raises(EventLogFullError, match="nearly full"):
        publish(tight.producer(), TOPIC, numbered(1))
    with pytest.raises(EventLogFullError, match="nearly full"):
        tight.check()
    consumer = tight.consumer(group="readers", topics=["topic"])
    consumer.commit(next_offsets(take(consumer, 10)))
    consumer.close()
    assert tight.trim() == 10


def test_a_full_disk_loses_nothing_and_room_repairs_it(path: Path):
    # A limit on the file's size stands for the disk's: LMDB meets it the same way.
    said = run(
        "import resource, sys\n"
        "from backend.bus.base import TopicSpec\n"
        "from backend.bus.local import LocalEventLog\n"
        "from backend.errors import EventLogFullError\n"
        "log = LocalEventLog(sys.argv[1], min_free_bytes=0)\n"
        "log.ensure_topics([TopicSpec('topic', 1, 1 << 20, 0.0, ('readers',))])\n"
        "unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, unlimited))\n"
        "def publish():\n"
        "    f = log.producer().publish('topic', key=b'k', value=b'x' * 70_000)\n"
        "    return f.result(60).offset\n"
        "stored = []\n"
        "try:\n"
        "    while True:\n"
        "        stored.append(publish())\n"
        "except EventLogFullError as error:\n"
        "    print(error.code, stored == list(range(len(stored))))\n"
        "try:\n"
        "    publish()\n"
        "except EventLogFullError as error:\n"
        "    print(error.code)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))\n"
        "print(publish() == len(stored))\n"
        "found = log.read('topic', partition=0, offset=0, max_records=1000)\n"
        "print({len(r.value) for r in found}, len(found) == len(stored) + 1)\n"
        "log.close()\n",
        path,
    )
    assert said.splitlines() == [
        "event_log_full True",
        "event_log_full",
        "True",
        "{70000} True",
    ]


def test_what_is_in_flight_is_bounded(path: Path, stack: ExitStack):
    log = open_log(path, stack, max_in_flight_bytes=100_000)
    producer = log.producer()
    with stuck_writer(path):
        futures = [
            producer.publish("topic", key=b"k", value=b"x" * 30_000) for _ in range(3)
        ]
        with pytest.raises(EventLogFullError, match="too much in flight"):
            producer.publish("topic", key=b"k", value=b"x" * 30_000)
    assert [f.result(PATIENCE_S).offset for f in futures] == [0, 1, 2]
    publish(producer, TOPIC, numbered(1))


def test_a_single_record_may_be_larger_than_the_bound(path: Path, stack: ExitStack):
    log = open_log(path, stack, max_in_flight_bytes=1_000)
    publish(log.producer(), TOPIC, [(b"k", b"x" * 30_000)])


def test_a_stuck_writer_is_noticed_and_survived(path: Path, stack: ExitStack):
    log = open_log(path, stack)
    producer = log.producer()
    with stuck_writer(path):
        future = producer.publish("topic", key=b"k", value=b"v")
        assert not producer.flush(timeout_s=0.05)
        with pytest.raises(EventLogUnavailableError, match="no commit within"):
            log.check()
    # The holder was killed: its lock is free again.
    assert future.result(PATIENCE_S).offset == 0
    log.check()


def test_records_that_wait_too_long_are_failed(path: Path, stack: ExitStack):
    log = open_log(path, stack, confirm_s=0.05)
    producer = log.producer()
    with stuck_writer(path):
        future = producer.publish("topic", key=b"k", value=b"v")

        def refuses() -> bool:
            try:
                producer.publish("topic", key=b"k", value=b"v")
            except EventLogUnavailableError:
                return True
            return False

        wait_for(refuses)
        with pytest.raises(EventLogUnavailableError, match="not confirmed in time"):
            future.result(PATIENCE_S)
    wait_for(lambda: producer.flush(timeout_s=0.1))
    publish(producer, TOPIC, numbered(1))


def test_a_forked_child_must_open_its_own(path: Path, stack: ExitStack):
    log = open_log(path, stack)
    publish(log.producer(), TOPIC, numbered(1))
    said = run(
        "import os, sys\n"
        "from backend.bus.local import LocalEventLog\n"
        "from backend.errors import EventLogClosedError\n"
        "log = LocalEventLog(sys.argv[1])\n"
        "producer = log.producer()\n"
        "consumer = log.consumer(group='readers', topics=['topic'])\n"
        "publish = lambda p: p.publish('topic', key=b'k', value=b'v')\n"
        "waiting = [publish(producer) for _ in range(1000)]\n"
        "if os.fork() == 0:\n"
        "    for use in (log.check, lambda: publish(producer), consumer.heartbeat):\n"
        "        try:\n"
        "            use()\n"
        "        except EventLogClosedError as error:\n"
        "            print(error.fields['reason'])\n"
        "    own = LocalEventLog(sys.argv[1])\n"
        "    publish(own.producer()).result(60)\n"
        "    own.close()\n"
        "    for used in (producer, consumer, log):\n"
        "        used.close()\n"
        "    print('child done', flush=True)\n"
        "    os._exit(0)\n"
        "print(os.wait()[1], flush=True)\n"
        "[f.result(60) for f in waiting]\n"
        "print(consumer.poll(max_records=1, max_bytes=1, timeout_s=60) != [])\n"
        "log.close()\n",
        path,
    )
    assert said.splitlines() == [
        *["opened before fork"] * 3,
        "child done",
        "0",
        "True",
    ]
    assert len(everything(log, TOPIC)) == 1_002


def test_two_names_of_one_directory_are_one_log(path: Path, stack: ExitStack):
    log = open_log(path, stack)
    (path.parent / "alias").symlink_to(path)
    alias = open_log(path.parent / "alias", stack)
    publish(alias.producer(), TOPIC, numbered(3))
    assert len(everything(log, TOPIC)) == 3
    assert alias.log_id == log.log_id


def test_another_directory_is_another_log(path: Path, stack: ExitStack):
    first, second = open_log(path, stack), open_log(path.parent / "second", stack)
    assert first.log_id != second.log_id


def test_a_newer_format_is_refused(path: Path):
    LocalEventLog(path).close()
    with (
        lmdb.open(str(path), max_dbs=4) as env,
        env.begin(write=True, db=env.open_db(b"state")) as txn,
    ):
        txn.put(b"f", (2).to_bytes(8, "little"))
    with pytest.raises(FormatError, match="found=2, supported=1"):
        LocalEventLog(path)


def test_a_refused_log_can_be_opened_once_it_is_repaired(path: Path):
    LocalEventLog(path).close()
    database = {"path": str(path), "max_dbs": 4}
    for found, refused in ((2, True), (1, False)):
        with (
            lmdb.open(**database) as env,
            env.begin(write=True, db=env.open_db(b"state")) as txn,
        ):
            txn.put(b"f", found.to_bytes(8, "little"))
        with pytest.raises(FormatError) if refused else ExitStack():
            LocalEventLog(path).close()


PANIC = ("mdb_txn_begin: MDB_PANIC", -30795)


class PanickingEnvironment:
    """An LMDB environment that has failed to write its root page."""

    def __init__(self, env) -> None:
        self._env = env

    def begin(self, **_options):
        raise lmdb.PanicError(*PANIC)

    def __getattr__(self, name: str):
        return getattr(self._env, name)


@pytest.mark.parametrize("use", ["read", "write"])
def test_after_a_failed_root_page_the_files_are_opened_anew(
    path: Path, stack: ExitStack, use: str
):
    log = open_log(path, stack)
    publish(log.producer(), TOPIC, numbered(5))
    log._env._env = PanickingEnvironment(log._env._env)
    with pytest.raises(EventLogUnavailableError, match="PANIC"):
        getattr(log._env, use)(lambda _txn: None)
    publish(log.producer(), TOPIC, numbered(5, start=5))
    assert len(everything(log, TOPIC)) == 10


def test_a_path_that_cannot_be_used_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EventLogUnavailableError, match="file/log"):
        LocalEventLog(tmp_path / "file" / "log")


def test_leases_of_the_dead_are_swept_away(path: Path, stack: ExitStack):
    log = open_log(path, stack)
    run(
        "import os, sys\n"
        "from backend.bus.local import LocalEventLog\n"
        "log = LocalEventLog(sys.argv[1])\n"
        "log.consumer(group='readers', topics=['topic'])\n"
        "os._exit(0)\n",
        path,
    )
    assert len([*path.glob("members/*")]) == 1
    open_log(path, stack)
    assert [*path.glob("members/*")] == []
    consumer = log.consumer(group="readers", topics=["topic"])
    assert len(consumer.assignment()) == TOPIC.partitions


def test_a_member_whose_clock_says_it_is_late_is_replaced(path: Path, stack: ExitStack):
    now_s = [1_000.0]
    log = open_log(path, stack, lease_s=10.0, monotonic=lambda: now_s[0])
    publish(log.producer(), TOPIC, numbered(4))
    late = log.consumer(group="readers", topics=["topic"])
    records = take(late, 4)
    now_s[0] += 10.5
    fresh = log.consumer(group="readers", topics=["topic"])
    assert len(fresh.assignment()) == TOPIC.partitions
    with pytest.raises(EventLogError, match="no longer owns"):
        late.commit(next_offsets(records))
    assert sorted(values(take(fresh, 4))) == [b"0", b"1", b"2", b"3"]
    # It joins again with its next poll.
    wait_for(
        lambda: (
            [c.poll(max_records=1, max_bytes=1, timeout_s=0.0) for c in (late, fresh)]
            and len(late.assignment()) == 1
        )
    )


def test_a_lease_from_before_a_restart_of_the_machine_is_over(
    path: Path, stack: ExitStack
):
    now_s = [1_000_000.0]
    log = open_log(path, stack, monotonic=lambda: now_s[0])
    log.consumer(group="readers", topics=["topic"])
    now_s[0] = 60.0
    consumer = log.consumer(group="readers", topics=["topic"])
    assert len(consumer.assignment()) == TOPIC.partitions


def test_names_must_fit_into_keys(path: Path, stack: ExitStack):
    log = open_log(path, stack)
    with pytest.raises(ValueError, match="Topic name"):
        log.ensure_topics([TopicSpec("x" * 201, 1, 1, 0.0, ())])
    with pytest.raises(ValueError, match="Group name"):
        log.consumer(group="", topics=["topic"])
    log.ensure_topics([TopicSpec("x" * 200, 1, 1, 0.0, ("y" * 200,))])
    log.consumer(group="y" * 200, topics=["x" * 200])


def test_a_cancelled_wait_leaves_no_thread(path: Path):
    before = threading.active_count()
    log = LocalEventLog(path)
    log.ensure_topics([TOPIC])
    publish(log.producer(), TOPIC, numbered(1))
    log.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ("backend.bus.nowhere.Log", "no such event log class"),
        ("backend.bus.local.Nothing", "no such event log class"),
        ("LocalEventLog", "no such event log class"),
        ("backend.bus.local.Path", "not an event log class"),
    ],
)
def test_an_engine_that_is_none_is_named(engine: str, reason: str):
    with pytest.raises(EventLogError, match=reason):
        open_event_log(engine=engine, options={})


def test_an_unknown_option_is_named(path: Path):
    with pytest.raises(EventLogError, match="colour"):
        open_event_log(
            engine="backend.bus.local.LocalEventLog",
            options={"path": path, "colour": "red"},
        )


def test_nothing_is_opened_twice_by_many_threads(path: Path, stack: ExitStack):
    opened: list[LocalEventLog] = []
    threads = [
        threading.Thread(target=lambda: opened.append(LocalEventLog(path)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len({log.log_id for log in opened}) == 1
    for log in opened:
        log.close()
    with pytest.raises(EventLogClosedError):
        opened[0].check()
    assert os.listdir(path) != []  # noqa: PTH208 - names are enough
