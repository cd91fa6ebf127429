"""The series repository at its interface: reads, round trips, sealing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pytest
from typing_extensions import override

from backend.domain.runs import Run
from backend.errors import FormatError
from backend.services.ingestion import apply_records
from backend.storage import keyspace
from backend.storage.engine.base import KeyRange, KeyValue, ReadTransaction
from backend.storage.factory import Store
from backend.storage.keyspace import Subspace
from backend.storage.repositories.run_state import get_run_state
from matyan_wire.batch import CreateRun, SeriesRef, encode_payload
from tests.backend.storage.series_model import Frame, Log, Point

T = TypeVar("T")

LOSS = SeriesRef("metric", "loss")
TRAIN = SeriesRef("metric", "loss", '{"subset":"train"}')
IMAGES = SeriesRef("images", "loss")


class CountingRead(ReadTransaction):
    """A read transaction that counts its round trips."""

    def __init__(self, inner: ReadTransaction) -> None:
        self.trips = 0
        self._inner = inner

    @override
    def get(self, key: bytes, *, snapshot: bool = False) -> bytes | None:
        self.trips += 1
        return self._inner.get(key)

    @override
    def get_many(
        self, keys: Sequence[bytes], *, snapshot: bool = False
    ) -> list[bytes | None]:
        self.trips += 1
        return self._inner.get_many(keys)

    @override
    def get_range(
        self,
        begin: bytes,
        end: bytes,
        *,
        limit: int = 0,
        reverse: bool = False,
        snapshot: bool = False,
    ) -> list[KeyValue]:
        self.trips += 1
        return self._inner.get_range(begin, end, limit=limit, reverse=reverse)

    @override
    def get_ranges(
        self, ranges: Sequence[KeyRange], *, snapshot: bool = False
    ) -> list[list[KeyValue]]:
        self.trips += 1
        return self._inner.get_ranges(ranges)


@pytest.fixture
def log() -> Log:
    return Log()


def send(store: Store, log: Log, points: list[Point], run_id: str = "run") -> Run:
    result = apply_records(store, [log.append(Frame(points, run_id=run_id))])
    assert result.poison == []
    return store.engine.read(lambda tr: store.runs.get(tr, run_id))


def ramp(ref: SeriesRef, start: int, stop: int) -> list[Point]:
    return [Point(ref, step, float(step)) for step in range(start, stop)]


def trips(store: Store, fn: Callable[[ReadTransaction], T]) -> tuple[T, int]:
    def counted(tr: ReadTransaction) -> tuple[T, int]:
        counting = CountingRead(tr)
        return fn(counting), counting.trips

    return store.engine.read(counted)


def test_series_of_one_name_are_apart_by_kind_and_context(
    store: Store, log: Log
) -> None:
    run = send(
        store,
        log,
        [Point(LOSS, 0, 1.0), Point(TRAIN, 0, 2.0), Point(IMAGES, 0, {"caption": "c"})],
    )
    listed = store.engine.read(lambda tr: store.series.list(tr, run.number))
    assert [(s.kind, s.context, s.number) for s in listed] == [
        ("metric", {}, 0),
        ("metric", {"subset": "train"}, 1),
        ("images", {}, 2),
    ]
    metrics = store.engine.read(
        lambda tr: store.series.list(tr, run.number, kinds={"metric"})
    )
    assert [s.number for s in metrics] == [0, 1]
    names = store.engine.read(store.series.names)
    assert set(names) == {LOSS, TRAIN, IMAGES}


def test_what_does_not_exist_is_empty_or_none(store: Store, log: Log) -> None:
    run = send(store, log, [Point(LOSS, 0, 1.0)])
    series = store.series

    def read(tr: ReadTransaction) -> list[Any]:
        return [
            series.list(tr, 12345),
            series.find(tr, run.number, kind="metric", name="nothing"),
            len(series.read_points(tr, run.number, 99)),
            len(series.read_objects(tr, run.number, 99)),
            series.sample_points(tr, run.number, [99], max_points=5),
            len(series.summaries(tr, run.number, 99)),
        ]

    assert store.engine.read(read) == [[], None, 0, 0, {}, 0]
    assert list(series.iter_points(store.engine, run.number, 99)) == []


def test_the_numbers_of_objects_are_not_sampled(store: Store, log: Log) -> None:
    run = send(store, log, [Point(LOSS, 0, 1.0), Point(IMAGES, 0, {})])
    sampled = store.engine.read(
        lambda tr: store.series.sample_points(tr, run.number, [0, 1], max_points=5)
    )
    assert list(sampled) == [0]


def test_listing_many_runs_takes_a_fixed_number_of_round_trips(
    store: Store, log: Log
) -> None:
    runs = [send(store, log, ramp(LOSS, 0, 5), f"run{i}") for i in range(6)]
    for run in runs[:4]:
        store.series.seal(store.engine, run.number)
    numbers = [run.number for run in runs]
    _, few = trips(store, lambda tr: store.series.list_many(tr, numbers[:1]))
    listed, many = trips(store, lambda tr: store.series.list_many(tr, numbers))
    assert few == many == 1
    counts = [s.summary.count for n in numbers for s in listed[n] if s.summary]
    assert counts == [5] * 6
    # Points that repeat sealed steps cost two more, however many series have them.
    for index in range(4):
        send(store, log, ramp(LOSS, 3, 8), f"run{index}")
    listed, overlapping = trips(store, lambda tr: store.series.list_many(tr, numbers))
    assert overlapping == 3
    counts = [s.summary.count for n in numbers for s in listed[n] if s.summary]
    assert counts == [8, 8, 8, 8, 5, 5]


def test_sampling_many_series_takes_a_fixed_number_of_round_trips(
    store: Store, log: Log
) -> None:
    refs = [SeriesRef("metric", f"m{i}") for i in range(20)]
    run = send(store, log, [p for ref in refs for p in ramp(ref, 0, 30)])
    store.series.seal(store.engine, run.number)
    send(store, log, [p for ref in refs[::3] for p in ramp(ref, 25, 40)])
    wanted = [0, 1, 2, 7, 8, 19]
    sampled, count = trips(
        store,
        lambda tr: store.series.sample_points(tr, run.number, wanted, max_points=10),
    )
    assert count == 2
    assert list(sampled) == wanted
    assert sampled[0].steps.tolist() == [0, 4, 9, 13, 17, 22, 26, 30, 35, 39]
    assert sampled[1].steps[[0, -1]].tolist() == [0, 29]


@pytest.mark.parametrize("max_points", [0, 1])
def test_a_sample_of_one_is_the_first_point(
    store: Store, log: Log, max_points: int
) -> None:
    run = send(store, log, ramp(LOSS, 3, 9))
    sampled = store.engine.read(
        lambda tr: store.series.sample_points(
            tr, run.number, [0], max_points=max_points
        )
    )
    assert sampled[0].steps.tolist() == [3]


@pytest.mark.parametrize("subspace", [Subspace.CHUNK, Subspace.TAIL])
def test_a_rotten_value_is_named_and_leaves_the_rest_readable(
    store: Store, log: Log, subspace: Subspace
) -> None:
    run = send(store, log, ramp(LOSS, 0, 100))
    other = send(store, log, ramp(LOSS, 0, 100), "other")
    if subspace is Subspace.CHUNK:
        store.series.seal(store.engine, run.number)
    ((key, value),) = store.engine.read(
        lambda tr: tr.get_range(*keyspace.run_range(subspace, run.number))
    )
    rotten = value[:20] + bytes([value[20] ^ 1]) + value[21:]
    store.engine.transact(lambda tr: tr.set(key, rotten))
    with pytest.raises(FormatError, match="checksum does not match") as raised:
        store.engine.read(lambda tr: store.series.read_points(tr, run.number, 0))
    assert raised.value.fields["key"] == key.hex()
    read = store.engine.read(lambda tr: store.series.read_points(tr, other.number, 0))
    assert len(read) == 100


def test_payloads_without_their_columns_are_found(store: Store, log: Log) -> None:
    run = send(store, log, [Point(IMAGES, 0, {"a": 1})])
    space = keyspace.run_range(Subspace.TAIL_PAYLOAD, run.number)
    store.engine.transact(lambda tr: tr.clear_range(*space))
    with pytest.raises(FormatError, match="do not pair"):
        store.engine.read(lambda tr: store.series.read_objects(tr, run.number, 0))


# --- sealing -------------------------------------------------------------------------


def test_sealing_moves_the_tail_into_chunks_once(store: Store, log: Log) -> None:
    run = send(store, log, ramp(LOSS, 0, 5000))
    assert store.series.seal(store.engine, run.number) == 5000
    assert store.series.seal(store.engine, run.number) == 0
    tail = store.engine.read(
        lambda tr: tr.get_range(*keyspace.run_range(Subspace.TAIL, run.number))
    )
    rows = store.engine.read(lambda tr: store.series.summaries(tr, run.number, 0))
    assert tail == []
    assert rows["count"].tolist() == [2048, 2048, 904]
    assert rows["first_step"].tolist() == [0, 2048, 4096]


def test_small_seals_do_not_rewrite_everything(store: Store, log: Log) -> None:
    run = send(store, log, ramp(LOSS, 0, 2000))
    store.series.seal(store.engine, run.number)
    for start in range(2000, 2100, 10):
        send(store, log, ramp(LOSS, start, start + 10))
        store.series.seal(store.engine, run.number)
    rows = store.engine.read(lambda tr: store.series.summaries(tr, run.number, 0))
    assert rows["count"][0] == 2000
    assert len(rows) <= 5
    store.series.seal(store.engine, run.number, final=True)
    points = store.engine.read(lambda tr: store.series.read_points(tr, run.number, 0))
    assert np.array_equal(points.steps, np.arange(2100))


def test_the_end_of_a_run_compacts_its_last_chunks(store: Store, log: Log) -> None:
    run = send(store, log, ramp(LOSS, 0, 1000))
    store.series.seal(store.engine, run.number)
    send(store, log, ramp(LOSS, 1000, 1010))
    store.series.seal(store.engine, run.number)
    send(store, log, ramp(LOSS, 1010, 1011))
    store.series.seal(store.engine, run.number, final=True)
    rows = store.engine.read(lambda tr: store.series.summaries(tr, run.number, 0))
    assert rows["count"].tolist() == [1011]


def test_a_late_point_rewrites_its_own_chunk_only(store: Store, log: Log) -> None:
    run = send(store, log, [Point(LOSS, 2 * step, 0.0) for step in range(6144)])
    store.series.seal(store.engine, run.number)

    def chunks() -> list[KeyValue]:
        begin, end = keyspace.run_range(Subspace.CHUNK, run.number)
        return store.engine.read(lambda tr: tr.get_range(begin, end))

    before = chunks()
    send(store, log, [Point(LOSS, 4097, 1.0)])
    store.series.seal(store.engine, run.number)
    after = chunks()
    first = keyspace.pack_chunk(run.number, 0, 4096, 0)[:-1]
    untouched = [pair for pair in before if not pair[0].startswith(first)]
    assert [pair for pair in after if not pair[0].startswith(first)] == untouched
    rows = store.engine.read(lambda tr: store.series.summaries(tr, run.number, 0))
    assert rows["count"].tolist() == [2048, 2049, 2048]


def test_a_chunk_that_grows_too_large_is_halved(store: Store, log: Log) -> None:
    run = send(store, log, [Point(LOSS, 10 * step, 0.0) for step in range(4096)])
    store.series.seal(store.engine, run.number)
    send(store, log, [Point(LOSS, 10 * step + 1, 0.0) for step in range(2000)])
    store.series.seal(store.engine, run.number)
    rows = store.engine.read(lambda tr: store.series.summaries(tr, run.number, 0))
    assert rows["count"].tolist() == [2024, 2024, 2048]


def objects_of(store: Store, run: Run) -> dict[int, bytes]:
    found = store.engine.read(lambda tr: store.series.read_objects(tr, run.number, 0))
    return dict(zip(found.steps.tolist(), found.payloads, strict=True))


def test_objects_as_large_as_may_be_are_sealed_whatever_stands_beside_them(
    store: Store, log: Log
) -> None:
    """Merged with what they meet, they would be beyond a transaction, every time."""
    noise = np.random.default_rng(0).bytes
    sizes = [*[190_000] * 20, 7_300_000, *[190_000] * 3]
    values = {10 * step: noise(size) for step, size in enumerate(sizes)}
    for step, value in values.items():
        run = send(store, log, [Point(IMAGES, step, value)])
        if step == 190:
            store.series.seal(store.engine, run.number)
    values |= {step: noise(7_300_000) for step in (205, 201, 5)}
    for step in (205, 201, 5):
        run = send(store, log, [Point(IMAGES, step, values[step])])
    store.series.seal(store.engine, run.number, final=True)
    state = store.engine.read(lambda tr: get_run_state(tr, run.number))
    assert state.first_tail == state.next_tail
    expected = {step: encode_payload(values[step]) for step in sorted(values)}
    assert objects_of(store, run) == expected
    rows = store.engine.read(lambda tr: store.series.summaries(tr, run.number, 0))
    assert int(rows["count"].sum()) == len(values)


def test_a_slower_seal_from_an_older_view_brings_nothing_back(
    store: Store, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.storage.repositories import series_sealing

    run = send(store, log, [Point(LOSS, 0, 1.0), Point(TRAIN, 0, 1.0)])
    seal_some = series_sealing._seal_some
    overtaken = False

    def overtake(*args: Any, **kwargs: Any) -> Any:
        nonlocal overtaken
        if not overtaken:
            overtaken = True
            send(store, log, [Point(LOSS, 0, 2.0)])
            store.series.seal(store.engine, run.number)
        return seal_some(*args, **kwargs)

    monkeypatch.setattr(series_sealing, "_seal_some", overtake)
    store.series.seal(store.engine, run.number)
    points = store.engine.read(lambda tr: store.series.read_points(tr, run.number, 0))
    assert points.values.tolist() == [2.0]


def test_readers_and_writers_beside_a_seal_see_each_point_once(
    store: Store, log: Log
) -> None:
    run = send(store, log, ramp(LOSS, 0, 100))
    records = [log.append(Frame(ramp(LOSS, n, n + 50))) for n in range(50, 3000, 50)]
    written = threading.Event()

    def write() -> None:
        try:
            for record in records:
                apply_records(store, [record])
        finally:
            written.set()

    def seal() -> None:
        while not written.is_set():
            store.series.seal(store.engine, run.number)

    def read() -> None:
        while not written.is_set():
            points, listed = store.engine.read(
                lambda tr: (
                    store.series.read_points(tr, run.number, 0),
                    store.series.list(tr, run.number),
                )
            )
            assert np.array_equal(points.steps, np.arange(len(points)))
            summary = listed[0].summary
            assert summary is not None
            assert (summary.count, summary.last_step) == (len(points), len(points) - 1)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for work in (write, seal, seal, read)]:
            done.result(timeout=60)
    points = store.engine.read(lambda tr: store.series.read_points(tr, run.number, 0))
    assert np.array_equal(points.steps, np.arange(3000))


def test_what_a_process_remembers_is_bounded(store: Store) -> None:
    from backend.storage.repositories.series_memory import LastSteps, SeriesMemory

    memory = SeriesMemory(max_series=3, max_runs=2)
    refs = [SeriesRef("metric", f"m{i}") for i in range(4)]
    memory.remember("a", (1, 1), {refs[0]: 0, refs[1]: 1}, LastSteps(5, {0: 9}))
    assert memory.last_steps((1, 1), 5) == {0: 9}
    assert memory.last_steps((1, 1), 6) == {}
    assert memory.count_unknown("a", refs) == 2
    memory.remember("b", (2, 1), {refs[0]: 0, refs[1]: 1}, LastSteps())
    assert memory.numbers((1, 1)) == {}
    assert memory.count_unknown("a", refs) == 4
    memory.remember("c", (3, 1), {}, LastSteps())
    memory.remember("d", (4, 1), {}, LastSteps())
    assert memory.numbers((2, 1)) == {}


def test_an_opening_alone_makes_no_series(store: Store, log: Log) -> None:
    apply_records(store, [log.append(Frame(events=[CreateRun(1)]))])
    run = store.engine.read(lambda tr: store.runs.get(tr, "run"))
    assert store.engine.read(lambda tr: store.series.list(tr, run.number)) == []
    assert store.series.seal(store.engine, run.number, final=True) == 0
