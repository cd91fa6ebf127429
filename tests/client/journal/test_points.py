from __future__ import annotations

import math
import os
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan_client.journal import mapping
from matyan_client.journal.points import (
    PointReader,
    PointWriter,
    SeriesState,
    segment_bytes,
    segment_path,
    spare_path,
)

CAPACITY = 1024

floats = st.floats(width=64, allow_nan=True, allow_infinity=True)
points = st.lists(
    st.tuples(
        st.integers(1, 2**32 - 1),
        st.integers(-(2**63) + 1, 2**63 - 1),
        floats,
        floats,
        st.integers(-(2**63), 2**63 - 1),
    ),
    max_size=60,
)


def writer(path: Path | None, *, limit: int = 2**40, capacity: int = CAPACITY):
    budget = mapping.Budget(limit)
    return PointWriter(path, budget=budget, lock=threading.RLock(), capacity=capacity)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@given(points=points, capacity=st.integers(1, 16))
def test_points_come_back_bit_for_bit_and_in_order(points, capacity, tmp_path_factory):
    path = tmp_path_factory.mktemp("points")
    log = writer(path, capacity=capacity)
    for number, step, value, epoch, time_us in points:
        log.append(SeriesState(number, counts=False), step, value, epoch, time_us)
    reader = PointReader(path, capacity=capacity)
    assert (log.end, reader.find_end()) == (len(points), len(points))
    found = []
    at = 0
    while at < log.end:
        stop = min(reader.segment_end(at), log.end)
        columns = reader.read(at, stop)
        rows = zip(
            memoryview(columns.series).cast("I"),
            memoryview(columns.steps).cast("q"),
            memoryview(columns.values).cast("d"),
            memoryview(columns.epochs).cast("d"),
            memoryview(columns.times_us).cast("q"),
            strict=True,
        )
        found += [(n, s, bits(v), bits(e), t) for n, s, v, e, t in rows]
        at = stop
    log.close()
    assert found == [(n, s, bits(v), bits(e), t) for n, s, v, e, t in points]


def test_a_torn_last_point_is_not_there(tmp_path: Path):
    log = writer(tmp_path)
    series = SeriesState(7, counts=True)
    log.append(series, None, 1.0, math.nan, 1)
    # What a process killed in the middle of the second store leaves behind.
    log._times[1], log._steps[1], log._values[1] = 5, 5, 5.0
    assert PointReader(tmp_path).find_end() == 1


def test_a_spare_segment_is_not_data(tmp_path: Path):
    log = writer(tmp_path, capacity=8)
    series = SeriesState(1, counts=True)
    for _ in range(6):
        log.append(series, None, 1.0, math.nan, 1)
    log.prepare()
    assert spare_path(tmp_path, 1).exists()
    assert PointReader(tmp_path).find_end() == 6
    for _ in range(6):
        log.append(series, None, 1.0, math.nan, 1)
    assert not spare_path(tmp_path, 1).exists()
    log.prepare()
    log.close()
    assert not spare_path(tmp_path, 2).exists()
    assert PointReader(tmp_path).find_end() == 12


def test_a_burst_that_overtakes_the_allocation_ahead_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    log = writer(tmp_path, capacity=8)
    series = SeriesState(1, counts=True)
    for _ in range(6):
        log.append(series, None, 1.0, math.nan, 1)
    create = mapping.create

    def slow(path: Path, size: int):
        monkeypatch.setattr(mapping, "create", create)
        for _ in range(10):
            log.append(series, None, 1.0, math.nan, 1)
        return create(path, size)

    monkeypatch.setattr(mapping, "create", slow)
    log.prepare()
    for _ in range(4):
        log.append(series, None, 1.0, math.nan, 1)
    assert (log.end, log.refused) == (20, 0)
    assert PointReader(tmp_path).find_end() == 20
    assert list(tmp_path.glob("spare-*")) == []


def test_steps_count_per_series_behind_the_greatest_given():
    series = SeriesState(1, counts=True)
    steps = []
    log = writer(None)
    for given_step in (None, None, 10, None, 3, None):
        log._directory = None
        log.append(series, given_step, 1.0, math.nan, 1)
        steps.append(series.next_step)
    assert steps == [0, 0, 0, 0, 0, 0]  # refused points do not count
    assert log.refused == 6


def test_a_resumed_series_leaves_steps_to_the_store(tmp_path: Path):
    log = writer(tmp_path)
    series = SeriesState(1, counts=False)
    for step in (None, 10, None):
        log.append(series, step, 1.0, math.nan, 1)
    steps = PointReader(tmp_path).read(0, 3).steps
    assert struct.unpack("<3q", steps) == (-(2**63), 10, -(2**63))


@pytest.mark.parametrize("step", [2**63, -(2**63), -(2**63) - 1])
def test_a_step_beyond_64_bits_is_refused(step: int, tmp_path: Path):
    log = writer(tmp_path)
    series = SeriesState(1, counts=True)
    with pytest.raises(ValueError, match=r"step|format"):
        log.append(series, step, 1.0, math.nan, 1)
    log.append(series, None, 2.0, math.nan, 1)
    assert PointReader(tmp_path).find_end() == 1
    assert series.next_step == 1


def test_a_quota_refuses_and_frees_again(tmp_path: Path):
    log = writer(tmp_path, limit=2 * segment_bytes(4), capacity=4)
    series = SeriesState(1, counts=True)
    for _ in range(10):
        log.append(series, None, 1.0, math.nan, 1)
    assert (log.end, log.refused) == (8, 2)
    first = log.forget_before(4, first=0)
    log.append(series, None, 1.0, math.nan, 1)
    assert (first, log.end) == (1, 9)
    assert not segment_path(tmp_path, 0).exists()


def test_what_is_written_to_is_never_forgotten(tmp_path: Path):
    log = writer(tmp_path, capacity=4)
    series = SeriesState(1, counts=True)
    for _ in range(4):
        log.append(series, None, 1.0, math.nan, 1)
    assert log.forget_before(4, first=0) == 0
    assert segment_path(tmp_path, 0).exists()


def test_a_full_disk_is_an_error_at_allocation(tmp_path: Path):
    """Beyond the file size limit no block can be had, as on a full disk."""
    pid = os.fork()
    if pid == 0:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        log = writer(tmp_path, capacity=32_768)
        log.append(SeriesState(1, counts=True), None, 1.0, math.nan, 1)
        wanted = log.refused == 1 and not list(tmp_path.iterdir())
        os._exit(0 if wanted else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_threads_lose_and_mix_nothing(tmp_path: Path):
    log = writer(tmp_path, capacity=512)

    def track(number: int) -> None:
        series = SeriesState(number, counts=True)
        for _ in range(1000):
            log.append(series, None, float(number), math.nan, number)

    threads = [threading.Thread(target=track, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = PointReader(tmp_path)
    seen: dict[int, list[int]] = {1: [], 2: [], 3: [], 4: []}
    for start in range(0, 4000, 512):
        columns = reader.read(start, min(start + 512, 4000))
        for number, step, value in zip(
            memoryview(columns.series).cast("I"),
            memoryview(columns.steps).cast("q"),
            memoryview(columns.values).cast("d"),
            strict=True,
        ):
            assert value == number
            seen[number].append(step)
    assert all(steps == list(range(1000)) for steps in seen.values())
