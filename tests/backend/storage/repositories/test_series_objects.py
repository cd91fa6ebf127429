"""Sampling of object series: the ends, the bound, the range, and what is read."""

import numpy as np
import pytest

from backend.services.ingestion import apply_records
from backend.storage.codecs import objects
from backend.storage.repositories import series_objects
from matyan_wire.batch import SeriesRef, decode_payload
from tests.backend.storage.series_model import Frame, Log, Point

TEXT = SeriesRef("texts", "note")
OTHER = SeriesRef("texts", "other")


@pytest.fixture
def log():
    return Log()


def send(store, log, steps, ref=TEXT, mark=""):
    points = [Point(ref, step, f"{step}{mark}") for step in steps]
    result = apply_records(store, [log.append(Frame(points))])
    assert result.poison == []
    return store.engine.read(lambda tr: store.runs.get(tr, "run"))


def number_of(store, run, ref=TEXT):
    found = store.engine.read(
        lambda tr: store.series.find(
            tr, run.number, kind=ref.kind, name=ref.name, context_text=ref.context
        )
    )
    return found.number


def sample(store, run, *, max_points=1_000_000, start=None, stop=None, refs=(TEXT,)):
    """Return {series number: [(step, text)]}, and check each piece."""
    numbers = [number_of(store, run, ref) for ref in refs]
    found = {}
    for number, points in store.series.sample_objects(
        store.engine,
        run.number,
        numbers,
        max_points=max_points,
        start=start,
        stop=stop,
    ):
        assert len(points) == len(points.payloads) == len(points.times_us) > 0
        texts = [decode_payload(payload) for payload in points.payloads]
        found.setdefault(number, []).extend(
            zip(points.steps.tolist(), texts, strict=True)
        )
    return found


@pytest.fixture(params=["whole", "by chunks"])
def chunked(request, monkeypatch):
    """Chunks of ten points; series read whole, or as if they were large."""
    monkeypatch.setattr(objects, "TARGET_POINTS", 10)
    if request.param == "by chunks":
        monkeypatch.setattr(series_objects, "GROUP_BYTES", 0)


@pytest.fixture
def run(store, log, chunked):
    """95 even steps from -10, of which 60 are sealed, some written again since."""
    run = send(store, log, range(-10, 110, 2))
    store.series.seal(store.engine, run.number)
    send(store, log, range(110, 180, 2))
    return send(store, log, [0, 50], mark=" again")


def steps_of(found):
    return [step for points in found.values() for step, _ in points]


def test_everything_is_read_once_with_the_last_write_of_each_step(store, run):
    (found,) = sample(store, run).values()

    assert [step for step, _ in found] == list(range(-10, 180, 2))
    assert dict(found)[50] == "50 again"
    assert dict(found)[52] == "52"


@pytest.mark.parametrize("max_points", [2, 3, 7, 30, 94])
@pytest.mark.parametrize(
    ("start", "stop"),
    [(None, None), (-10, 180), (3, 41), (20, None), (None, 111), (108, 150)],
)
def test_samples_keep_the_ends_and_the_bound(store, run, max_points, start, stop):
    steps = steps_of(sample(store, run, max_points=max_points, start=start, stop=stop))

    inside = [
        step
        for step in range(-10, 180, 2)
        if (start is None or step >= start) and (stop is None or step < stop)
    ]
    assert steps == sorted(set(steps))
    assert set(steps) <= set(inside)
    assert len(steps) == min(max_points, len(inside))
    assert (steps[0], steps[-1]) == (inside[0], inside[-1])


def test_one_point_is_the_first(store, run):
    assert steps_of(sample(store, run, max_points=1)) == [-10]


@pytest.mark.parametrize(("start", "stop"), [(500, None), (None, -10), (51, 52)])
def test_a_range_without_points_has_none(store, run, start, stop):
    assert sample(store, run, start=start, stop=stop) == {}


def test_points_that_came_late_between_sealed_ones_are_read(store, log, run):
    send(store, log, [1, 3, 5, 7, 9, 11, 13])

    steps = steps_of(sample(store, run))

    assert set(range(1, 14)) <= set(steps)
    assert steps == sorted(set(steps))


def test_series_come_in_the_order_asked(store, log, run):
    send(store, log, [1, 2], ref=OTHER)

    found = sample(store, run, refs=(OTHER, TEXT), max_points=2)

    assert list(found) == [number_of(store, run, OTHER), number_of(store, run)]
    assert steps_of(found) == [1, 2, -10, 178]


def test_many_series_share_one_read(store, log, monkeypatch):
    refs = [SeriesRef("texts", f"t{index}") for index in range(50)]
    for ref in refs:
        run = send(store, log, range(3), ref=ref)
    numbers = [number_of(store, run, ref) for ref in refs]
    reads = []
    read = store.engine.read
    monkeypatch.setattr(store.engine, "read", lambda fn: (reads.append(1), read(fn))[1])

    found = list(
        store.series.sample_objects(store.engine, run.number, numbers, max_points=2)
    )

    assert [points.steps.tolist() for _, points in found] == [[0, 2]] * 50
    assert len(reads) == 2


def test_of_a_large_series_only_the_chosen_chunks_are_read(store, log, monkeypatch):
    monkeypatch.setattr(objects, "TARGET_POINTS", 10)
    monkeypatch.setattr(series_objects, "GROUP_BYTES", 0)
    run = send(store, log, range(1000))
    store.series.seal(store.engine, run.number)
    decoded = []
    decode = series_objects.decode_columns_of
    from backend.storage.repositories import series

    for module in (series, series_objects):
        monkeypatch.setattr(
            module,
            "decode_columns_of",
            lambda *args, **kwargs: (decoded.append(1), decode(*args, **kwargs))[1],
        )

    steps = steps_of(sample(store, run, max_points=3))

    assert steps == [0, 500, 999]
    assert len(decoded) <= 6
    assert np.diff(steps).min() > 0
