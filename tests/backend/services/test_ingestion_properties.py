"""The store against a naive model: whatever is sent, repeated, cut short or retried."""

from __future__ import annotations

import contextlib
import hashlib
import math
import struct
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from backend.errors import StoreUnavailableError
from backend.services import allowance, run_writing
from backend.services.ingestion import apply_records
from backend.services.ingestion_batches import decode_record
from backend.storage.codecs import chunks, objects
from backend.storage.engine.base import Engine, Transaction
from backend.storage.engine.faults import FaultInjector
from backend.storage.factory import Store
from backend.storage.repositories import (
    run_state,
    series,
    series_merging,
    series_sampling,
    series_sealing,
    series_tail,
)
from matyan_wire.batch import (
    AUTO_STEP,
    AddTag,
    CreateRun,
    DeleteAttributes,
    Event,
    FinishRun,
    Position,
    RemoveTag,
    SeriesRef,
    SetAttributes,
    SetProperties,
    encode_payload,
)
from tests.backend.storage.engines import EngineAround
from tests.backend.storage.series_model import (
    Frame,
    Log,
    Model,
    Point,
    assert_store_equals_model,
    columns_of,
    encode_frame,
    expected_columns,
)
from tests.services.stores import Stores

T = TypeVar("T")

NAN_WITH_PAYLOAD = struct.unpack("<d", bytes.fromhex("010203040506f87f"))[0]
SIGNALLING_NAN = struct.unpack("<d", bytes.fromhex("010000000000f0ff"))[0]

REFS = (
    SeriesRef("metric", "loss"),
    SeriesRef("metric", "loss", '{"subset":"train"}'),
    SeriesRef("metric", "acc"),
    SeriesRef("images", "loss"),
    SeriesRef("log_records", "__log_records"),
)

steps = st.one_of(
    st.integers(0, 60),
    st.sampled_from([-(2**63) + 1, 2**63 - 1, -1, -40, 10**15]),
)
auto_steps = st.one_of(st.integers(0, 60), st.just(AUTO_STEP))
values = st.one_of(
    st.floats(width=32, min_value=-1e6, max_value=1e6),
    st.sampled_from(
        [
            math.nan,
            math.inf,
            -math.inf,
            0.0,
            -0.0,
            NAN_WITH_PAYLOAD,
            SIGNALLING_NAN,
            5e-324,
        ]
    ),
)
payloads = st.one_of(st.text(max_size=20), st.dictionaries(st.text(max_size=3), values))
epochs = st.one_of(st.just(math.nan), st.floats(0, 10))
times = st.integers(1_700_000_000_000_000, 1_800_000_000_000_000)


@st.composite
def points(draw: st.DrawFn) -> Point:
    ref = draw(st.sampled_from(REFS))
    # The series with assigned steps keeps clear of the greatest step there is.
    step = draw(auto_steps if ref.name in {"acc", "__log_records"} else steps)
    value = draw(values if ref.kind == "metric" else payloads)
    return Point(ref, step, value, draw(times), draw(epochs))


@st.composite
def runs_of_points(draw: st.DrawFn) -> list[Point]:
    ref = draw(st.sampled_from(REFS[:3]))
    first, count = draw(st.integers(0, 80)), draw(st.integers(1, 40))
    return [Point(ref, first + i, float(i), 10**15 + i) for i in range(count)]


batches = st.one_of(st.lists(points(), max_size=25), runs_of_points())
actions = st.lists(
    st.one_of(
        st.tuples(st.just("send"), batches),
        st.tuples(st.just("send"), batches),
        st.tuples(st.just("apply"), st.none()),
        st.tuples(st.just("redeliver"), st.floats(0, 1)),
        st.tuples(st.just("resend"), st.none()),
        st.tuples(st.just("seal"), st.booleans()),
    ),
    min_size=1,
    max_size=14,
)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so small that a few points make many chunks and transactions."""
    monkeypatch.setattr(chunks, "TARGET_POINTS", 8)
    monkeypatch.setattr(chunks, "MAX_POINTS", 11)
    monkeypatch.setattr(objects, "TARGET_POINTS", 4)
    monkeypatch.setattr(objects, "TARGET_BYTES", 64)
    monkeypatch.setattr(series_sealing, "MAX_BYTES", 1500)
    monkeypatch.setattr(series_sealing, "MAX_POINTS", 24)
    monkeypatch.setattr(series_sealing, "MAX_SERIES", 2)
    monkeypatch.setattr(series_sealing, "MAX_CHUNKS_READ", 3)
    monkeypatch.setattr(series_sealing, "MAX_BYTES_READ", 200)
    monkeypatch.setattr(series_sealing, "MAX_MERGE_BYTES", 2000)
    monkeypatch.setattr(series_merging, "MAX_MERGE_BYTES", 100)
    monkeypatch.setattr(series_sealing, "TRAILING_ROWS", 3)
    monkeypatch.setattr(series_tail, "MAX_BLOCK_POINTS", 10)
    monkeypatch.setattr(run_writing, "MAX_BLOCK_POINTS", 10)
    monkeypatch.setattr(run_writing, "MAX_BLOCK_BYTES", 60)
    monkeypatch.setattr(allowance, "MAX_POINTS", 7)
    monkeypatch.setattr(allowance, "MAX_OBJECT_BYTES", 60)
    monkeypatch.setattr(allowance, "MAX_NEW_SERIES", 2)
    monkeypatch.setattr(allowance, "MAX_EVENT_BYTES", 150)
    monkeypatch.setattr(allowance, "MAX_TREE_BYTES", 30)
    monkeypatch.setattr(run_state, "MIN_TAIL_POINTS", 40)
    monkeypatch.setattr(run_state, "TAIL_POINTS_PER_SERIES", 10)
    monkeypatch.setattr(series_sampling, "WHOLE_POINTS", 20)
    monkeypatch.setattr(series, "METRIC_CHUNKS_PER_READ", 2)
    monkeypatch.setattr(series, "OBJECT_CHUNKS_PER_READ", 1)


class CrashingEngine(EngineAround):
    """Fails for good after a number of transactions, before or after the commit."""

    def __init__(self, inner: Engine, *, after: int, committed: bool) -> None:
        super().__init__(inner)
        self._left = after
        self._committed = committed

    @override
    def transact(self, fn: Callable[[Transaction], T], *, timeout_s: float = 30.0) -> T:
        self._left -= 1
        if self._left > 0:
            return super().transact(fn, timeout_s=timeout_s)
        if self._left == 0 and self._committed:
            super().transact(fn, timeout_s=timeout_s)
        raise StoreUnavailableError(reason="crashed")


class Scenario:
    """A client, a log and a store, with the model beside them."""

    def __init__(self, store: Store, *, with_positions: bool) -> None:
        self.store = store
        self.log = Log()
        self.model = Model()
        self.applied = 0
        self._seq = 0
        self._with_positions = with_positions
        self._last: Frame | None = None

    def send(self, sent: list[Point]) -> None:
        self._seq += 1
        frame = Frame(sent)
        if self._with_positions:
            frame.position = Position(1, self._seq, writer="w")
        else:
            frame.sent_us = self._seq  # makes the digest this frame's own
            frame.digest = hashlib.blake2b(encode_frame(frame), digest_size=16).digest()
        self._last = frame
        self.log.append(frame)
        self.model.apply(sent)

    def resend(self, _: Any = None) -> None:
        if self._last is not None:
            self.log.append(self._last)
            if not self._with_positions:
                self.model.apply(self._last.points, repeated=True)

    def apply(self, _: Any = None) -> None:
        result = apply_records(self.store, self.log.records[self.applied :])
        assert result.poison == []
        self.applied = len(self.log.records)

    def redeliver(self, share: float) -> None:
        first = int(share * self.applied)
        result = apply_records(self.store, self.log.records[first : self.applied])
        assert (result.applied, result.points) == (0, 0)

    def seal(self, final: object) -> None:
        run = self.store.engine.read(lambda tr: self.store.runs.find(tr, "run"))
        if run is not None:
            self.store.series.seal(self.store.engine, run.number, final=bool(final))

    def check(self) -> None:
        self.apply()
        if self.log.records:
            assert_store_equals_model(self.store, self.model)


def play(store: Store, chosen: list[tuple[str, Any]], *, with_positions: bool) -> None:
    scenario = Scenario(store, with_positions=with_positions)
    for name, argument in chosen:
        getattr(scenario, name)(argument)
    scenario.check()
    scenario.seal(final=True)
    scenario.check()


@pytest.mark.usefixtures("small_limits")
@settings(max_examples=60)
@given(chosen=actions, with_positions=st.booleans())
def test_store_equals_model(
    stores: Stores, *, chosen: list[tuple[str, Any]], with_positions: bool
) -> None:
    with stores.open() as store:
        play(store, chosen, with_positions=with_positions)


@pytest.mark.usefixtures("small_limits")
@settings(max_examples=25)
@given(chosen=actions, with_positions=st.booleans(), seed=st.integers(0, 1000))
def test_store_equals_model_when_commits_fail(
    stores: Stores, *, chosen: list[tuple[str, Any]], with_positions: bool, seed: int
) -> None:
    faults = FaultInjector(
        conflict=0.1, unknown_applied=0.15, unknown_lost=0.1, seed=seed
    )
    with stores.open(faults=faults) as store:
        play(store, chosen, with_positions=with_positions)


@pytest.mark.usefixtures("small_limits")
@settings(max_examples=30)
@given(
    sent=st.lists(batches, min_size=1, max_size=6),
    after=st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=6),
    with_positions=st.booleans(),
)
def test_what_a_crash_interrupts_is_completed_by_delivering_again(
    stores: Stores,
    *,
    sent: list[list[Point]],
    after: list[tuple[int, bool]],
    with_positions: bool,
) -> None:
    with stores.open() as store:
        scenario = Scenario(store, with_positions=with_positions)
        for batch in sent:
            scenario.send(batch)
        for count, committed in after:
            crashing = CrashingEngine(store.engine, after=count, committed=committed)
            with contextlib.suppress(StoreUnavailableError):
                apply_records(Store(crashing), scenario.log.records)
                _seal_crashing(store, crashing)
        scenario.check()
        scenario.seal(final=True)
        scenario.check()


def _seal_crashing(store: Store, crashing: Engine) -> None:
    run = store.engine.read(lambda tr: store.runs.find(tr, "run"))
    if run is not None:
        store.series.seal(crashing, run.number)


@pytest.mark.usefixtures("small_limits")
@settings(max_examples=30)
@given(
    sent=st.lists(batches, min_size=1, max_size=6),
    seals=st.lists(st.booleans(), min_size=6, max_size=6),
    start=st.one_of(st.none(), st.integers(-50, 100)),
    stop=st.one_of(st.none(), st.integers(-50, 100)),
    max_points=st.integers(1, 30),
)
def test_ranges_and_samples_agree_with_the_model(
    stores: Stores,
    sent: list[list[Point]],
    seals: list[bool],
    start: int | None,
    stop: int | None,
    max_points: int,
) -> None:
    with stores.open() as store:
        scenario = Scenario(store, with_positions=True)
        for batch, seal in zip(sent, seals, strict=False):
            scenario.send(batch)
            scenario.apply()
            if seal:
                scenario.seal(final=False)
        run = store.engine.read(lambda tr: store.runs.get(tr, "run"))
        refs = [ref for ref in scenario.model.series if ref.kind == "metric"]
        found = store.engine.read(
            lambda tr: store.series.find_many(tr, run.number, refs)
        )
        numbers = [found[ref].number for ref in refs]
        samples = store.engine.read(
            lambda tr: store.series.sample_points(
                tr, run.number, numbers, max_points=max_points, start=start, stop=stop
            )
        )
        for ref in refs:
            number = found[ref].number
            wanted = [
                row
                for row in expected_columns(scenario.model.points(ref))
                if (start is None or row[0] >= start)
                and (stop is None or row[0] < stop)
            ]
            read = store.engine.read(
                lambda tr, n=number: store.series.read_points(
                    tr, run.number, n, start=start, stop=stop
                )
            )
            assert columns_of(read) == wanted
            sample = columns_of(samples[number])
            assert len(sample) == min(len(wanted), max_points) or (
                # A long series with late points is sampled on the sealed counts.
                0 < len(sample) <= max_points
            )
            assert set(sample) <= set(wanted)
            assert sample == sorted(sample)
            assert sample[:1] == wanted[:1]
            assert max_points == 1 or sample[-1:] == wanted[-1:]


def test_openings_and_finishes_are_part_of_the_stream(stores: Stores) -> None:
    with stores.open() as store:
        log = Log()
        log.append(Frame(events=[CreateRun(1)]))
        log.append(Frame([Point(REFS[0], 1, 1.0)], [FinishRun(2)]))
        result = apply_records(store, log.records)
        run = store.engine.read(lambda tr: store.runs.get(tr, "run"))
    assert (result.applied, result.points, result.sealed_points) == (2, 1, 1)
    assert (run.active, run.resumed_count) == (False, 0)


# --- seals of one run at once --------------------------------------------------------


class SteppedEngine(EngineAround):
    """Stops before each transaction until it is told to go on."""

    def __init__(self, inner: Engine) -> None:
        super().__init__(inner)
        self.go_on = threading.Semaphore(0)
        self.stopped = threading.Semaphore(0)

    @override
    def transact(self, fn: Callable[[Transaction], T], *, timeout_s: float = 30.0) -> T:
        self.stopped.release()
        assert self.go_on.acquire(timeout=60)
        return super().transact(fn, timeout_s=timeout_s)


class SteppedSeal:
    """A seal that goes on by one transaction at a time. Its view is of the start."""

    def __init__(self, store: Store, run_number: int) -> None:
        self._engine = SteppedEngine(store.engine)
        self._thread = threading.Thread(
            target=self._seal, args=(store, run_number), daemon=True
        )
        self._is_done = False
        self._thread.start()
        assert self._engine.stopped.acquire(timeout=60)

    def _seal(self, store: Store, run_number: int) -> None:
        try:
            store.series.seal(self._engine, run_number)
        finally:
            self._is_done = True
            self._engine.stopped.release()

    def step(self) -> bool:
        """Let the next transaction happen; return whether there was one."""
        if self._is_done:
            return False
        self._engine.go_on.release()
        assert self._engine.stopped.acquire(timeout=60)
        return True

    def finish(self) -> None:
        while self.step():
            pass
        self._thread.join(60)


@pytest.mark.usefixtures("small_limits")
@settings(max_examples=40)
@given(
    sent=st.lists(batches, min_size=2, max_size=4),
    turns=st.lists(st.integers(0, 3), max_size=16),
)
@example(
    # The second has sealed the first part of the series when the first comes to it.
    sent=[[Point(REFS[0], i, 1.0) for i in range(30)], [Point(REFS[0], 0, 2.0)]],
    turns=[1, 0, 0, 0, 0, 0, 0],
)
def test_seals_of_one_run_at_once_keep_the_last_value_of_each_step(
    stores: Stores, *, sent: list[list[Point]], turns: list[int]
) -> None:
    with stores.open() as store:
        scenario = Scenario(store, with_positions=True)
        seals = []
        for batch in sent:
            scenario.send(batch)
            scenario.apply()
            run = store.engine.read(lambda tr: store.runs.get(tr, "run"))
            seals.append(SteppedSeal(store, run.number))
        for turn in turns:
            seals[turn % len(seals)].step()
        for seal in seals:
            seal.finish()
        scenario.check()
        scenario.seal(final=True)
        scenario.check()


# --- events --------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3)
leaves = st.one_of(
    st.integers(0, 9), st.text(max_size=30), st.dictionaries(names, names)
)
good_events = st.one_of(
    st.builds(lambda p, v: SetAttributes([(p, encode_payload(v))]), paths, leaves),
    st.builds(lambda p: DeleteAttributes([p]), paths),
    st.builds(AddTag, names),
    st.builds(RemoveTag, names),
    st.builds(lambda n: SetProperties(name=n), names),
)
bad_events = st.sampled_from(
    [
        SetAttributes([(["a"], encode_payload(1)), (["b"], b"\xc1")]),
        SetProperties(name="x" * 2000),
        AddTag("x" * 300),
    ]
)
frames_of_events = st.lists(
    st.tuples(
        st.sampled_from(["run", "other"]),
        st.lists(st.one_of(good_events, good_events, bad_events), max_size=12),
    ),
    min_size=1,
    max_size=5,
)


class EventModel:
    """A run's name, tags and attributes, changed one event after the other."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.tags: set[str] = set()
        self.tree: dict[str, Any] = {}

    def apply(self, event: Event) -> None:
        if isinstance(event, SetProperties):
            self.name = event.name
        elif isinstance(event, AddTag):
            self.tags.add(event.name)
        elif isinstance(event, RemoveTag):
            self.tags.discard(event.name)
        elif isinstance(event, SetAttributes):
            for path, raw in event.assignments:
                node = self.tree
                for name in path[:-1]:
                    if not isinstance(node.get(name), dict):
                        node[name] = {}
                    node = node[name]
                node[path[-1]] = msgspec.msgpack.decode(raw)
        elif isinstance(event, DeleteAttributes):
            for path in event.paths:
                self._delete(path)

    def _delete(self, path: list[str]) -> None:
        node: Any = self.tree
        for name in path[:-1]:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(path[-1], None)


def is_bad(event: Event) -> bool:
    return event in (
        SetAttributes([(["a"], encode_payload(1)), (["b"], b"\xc1")]),
        SetProperties(name="x" * 2000),
        AddTag("x" * 300),
    )


@pytest.mark.usefixtures("small_limits")
@settings(max_examples=40)
@given(
    sent=frames_of_events,
    crashes=st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=8),
    seed=st.integers(0, 1000),
)
def test_events_are_applied_in_order_however_they_are_split_and_interrupted(
    stores: Stores,
    sent: list[tuple[str, list[Event]]],
    crashes: list[tuple[int, bool]],
    seed: int,
) -> None:
    faults = FaultInjector(conflict=0.1, unknown_applied=0.1, seed=seed)
    with stores.open(faults=faults) as store:
        log = Log()
        models = {run_id: EventModel() for run_id, _ in sent}
        refused: list[Event] = []
        for number, (run_id, events) in enumerate(sent, 1):
            position = Position(1, number, writer="w")
            log.append(Frame(list(REF_POINTS), list(events), position, run_id))
            refused += [event for event in events if is_bad(event)]
            for event in events:
                if not is_bad(event):
                    models[run_id].apply(event)
        dead: list[Event] = []
        for count, committed in [*crashes, (10**9, True)]:
            crashing = CrashingEngine(store.engine, after=count, committed=committed)
            with contextlib.suppress(StoreUnavailableError):
                _apply_setting_aside(Store(crashing), log, dead)
        # Once each, or again for each crash.
        assert all(event in dead for event in refused)
        assert all(is_bad(event) for event in dead)
        assert crashes or dead == refused
        for run_id, model in models.items():
            _assert_run_equals(store, run_id, model)


REF_POINTS = (Point(REFS[0], 0, 1.0),)


def _apply_setting_aside(store: Store, log: Log, dead: list[Event]) -> None:
    """Apply all records as the loop does, adding the events set aside to `dead`."""
    rest = list(log.records)
    while rest:
        result = apply_records(store, rest)
        for record, _ in result.poison:
            dead += decode_record(record).batch.events
        rest = result.rest


def _assert_run_equals(store: Store, run_id: str, model: EventModel) -> None:
    run = store.engine.read(lambda tr: store.runs.get(tr, run_id))
    tree = store.engine.read(lambda tr: store.attributes.get(tr, run.number))
    tags = store.engine.read(store.tags.list_all)
    by_id = {tag.tag_id: tag.name for tag in tags}
    assert tree == model.tree
    assert {by_id[tag_id] for tag_id in run.tag_ids} == model.tags
    assert run.name == (model.name or f"Run: {run_id}")
