"""Several processes on one store, some of which die."""

from __future__ import annotations

import os
import random
import time

import pytest

from backend.errors import StoreClosedError

pytestmark = pytest.mark.e2e


@pytest.mark.exact
def test_processes_that_read_and_set_count_exactly(engine, children):
    started = [children.start("increment", "count", 40) for _ in range(3)]
    for _ in range(20):
        engine.transact(
            lambda tr: tr.set(b"count", b"%d" % (int(tr.get(b"count") or b"0") + 1)),
            timeout_s=60,
        )
    for child in started:
        child.join()
    assert engine.read(lambda tr: tr.get(b"count")) == b"140"


def test_what_another_process_commits_is_read_at_once(engine, children):
    child = children.start("read_when_told", "k")
    assert child.read() == "ready"
    for number in range(20):
        engine.transact(lambda tr: tr.set(b"k", b"%d" % number))  # noqa: B023
        child.tell()
        assert child.read() == str(number)


def test_a_read_sees_one_version_while_another_process_writes(engine, children):
    child = children.start("move_until_killed", 16)
    assert child.read() == "ready"
    versions = set()
    deadline = time.monotonic() + 60
    while len(versions) < 20:
        assert time.monotonic() < deadline
        pairs = engine.read(
            lambda tr: (
                tr.get_range(b"move/", b"move/0008")
                + [
                    (b"", tr.get(b"move/%04d" % number) or b"0")
                    for number in range(8, 16)
                ]
            )
        )
        values = tuple(int(value) for _, value in pairs)
        assert sum(values) == 0
        versions.add(values)
    child.kill()


def committed(engine) -> list[int]:
    """Return the numbers `write_until_killed` left, each checked to be whole."""
    found = []
    for part in (b"a/", b"b/", b"c/"):
        numbers = []
        begin, end = part, part[:-1] + b"0"
        while True:
            pairs = engine.read(
                lambda tr: tr.get_range(begin, end, limit=500)  # noqa: B023
            )
            for key, value in pairs:
                assert value.rstrip(b"x") == b"%d" % int(key[2:])
                numbers.append(int(key[2:]))
            if len(pairs) < 500:
                break
            begin = pairs[-1][0] + b"\x00"
        found.append(numbers)
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.mark.parametrize("size", [100, 20_000])
def test_a_writer_killed_at_any_moment_leaves_whole_transactions(
    engine, children, size
):
    draw = random.Random(size)
    acknowledged: list[int] = []
    for _ in range(4):
        first = acknowledged[-1] + 2 if acknowledged else 0
        child = children.start("write_until_killed", first, size)
        acknowledged.append(child.read())
        time.sleep(draw.uniform(0, 0.15))
        child.kill()
        acknowledged += child.read_rest()
        # The dead process neither blocks the next one nor takes anything back.
        engine.transact(lambda tr: tr.set(b"alive", b""))
        stored = committed(engine)
        assert set(acknowledged) <= set(stored)
        # At most the one commit per round that was cut off before its answer.
        unanswered = set(stored) - set(acknowledged)
        assert len(unanswered) <= 4


@pytest.mark.exact
def test_writers_killed_next_to_each_other_leave_the_others_alive(engine, children):
    survivor = children.start("increment", "count", 150)
    for _ in range(3):
        victim = children.start("write_until_killed", 0, 10)
        victim.read()
        victim.kill()
    survivor.join()
    assert engine.read(lambda tr: tr.get(b"count")) == b"150"
    committed(engine)


def test_a_forked_child_may_not_use_the_engine(engine):
    engine.transact(lambda tr: tr.set(b"k", b"v"))
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        refused = 0
        for use in (
            lambda: engine.read(lambda tr: tr.get(b"k")),
            lambda: engine.transact(lambda tr: tr.set(b"k", b"child")),
            engine.check,
            engine.size_bytes,
        ):
            try:
                use()
            except StoreClosedError:
                refused += 1
        engine.close()
        os.write(write_end, b"%d" % refused)
        os._exit(0)
    os.close(write_end)
    answer = os.read(read_end, 10)
    os.close(read_end)
    os.waitpid(pid, 0)
    assert answer == b"4"
    assert engine.read(lambda tr: tr.get(b"k")) == b"v"
    engine.transact(lambda tr: tr.set(b"k", b"parent"))
    assert engine.read(lambda tr: tr.get(b"k")) == b"parent"
