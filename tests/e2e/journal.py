"""A client that writes down what was accepted, to be compared with what was kept.

It speaks the JSON protocol or `matyan.v2`, repeats a frame until it is acknowledged,
and records every acknowledged point exactly: run, series, step, value bits, time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from backend.storage.factory import Store
from matyan_wire.batch import (
    BATCH_VERSION,
    METRIC,
    Batch,
    CreateRun,
    PointColumns,
    Position,
    SeriesRef,
    encode_batch,
)

SERIES = 5
EPOCH = datetime(2026, 11, 23, tzinfo=UTC)
EPOCH_US = int(EPOCH.timestamp()) * 1_000_000
SPECIAL_VALUES = (float("nan"), float("inf"), float("-inf"), -0.0, 1e-310)


@dataclass
class Journal:
    """What one run was told and acknowledged, as columns by series."""

    run_id: str
    points: int
    steps_per_frame: int = 10
    accepted_frames: int = 0
    sends: int = 0
    values: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        generator = np.random.default_rng(abs(hash(self.run_id)) % 2**32)
        self.values = generator.normal(size=self.points)
        self.values[:: self.points // len(SPECIAL_VALUES)][: len(SPECIAL_VALUES)] = (
            SPECIAL_VALUES
        )

    @property
    def frames(self) -> int:
        return self.points // (SERIES * self.steps_per_frame)

    def expected(self, series: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (steps, values, times_us) the server has accepted for a series."""
        count = self.accepted_frames * self.steps_per_frame
        steps = np.arange(count, dtype=np.int64)
        values = self.values[series::SERIES][:count]
        return steps, values, EPOCH_US + steps * SERIES + series

    def batch(self, frame: int) -> Batch:
        """Return frame number `frame` (from 0) as a columnar batch."""
        first = frame * self.steps_per_frame * SERIES
        count = self.steps_per_frame * SERIES
        index = np.arange(first, first + count, dtype="<i8")
        return Batch(
            BATCH_VERSION,
            self.run_id,
            position=Position(epoch=1, seq=frame + 1, writer="journal"),
            series=[SeriesRef(METRIC, f"m{s}", '{"rank":0}') for s in range(SERIES)],
            points=PointColumns(
                count=count,
                series=(index % SERIES).astype("<u4").tobytes(),
                steps=(index // SERIES).astype("<i8").tobytes(),
                values=self.values[first : first + count].astype("<f8").tobytes(),
                times_us=(EPOCH_US + index).astype("<i8").tobytes(),
            ),
            events=[CreateRun(client_time_us=EPOCH_US)] if frame == 0 else [],
        )

    def json_text(self, frame: int) -> str:
        """Return the same frame in the JSON protocol."""
        first = frame * self.steps_per_frame * SERIES
        count = self.steps_per_frame * SERIES
        messages = [
            {
                "type": "log_metric",
                "name": f"m{i % SERIES}",
                "value": float(self.values[i]),
                "step": i // SERIES,
                "epoch": None,
                "context": {"rank": 0},
                "dtype": "float",
                "client_datetime": (EPOCH + timedelta(microseconds=i)).isoformat(),
            }
            for i in range(first, first + count)
        ]
        if frame == 0:
            opening = {"type": "create_run", "client_datetime": EPOCH.isoformat()}
            messages.insert(0, opening)
        return json.dumps(messages)


def send_all(journal: Journal, url: str, *, binary: bool, timeout_s: float) -> None:
    """Send every frame until acknowledged, reconnecting as often as it takes."""
    deadline = time.monotonic() + timeout_s
    address = f"{url.replace('http', 'ws', 1)}/api/v1/ws/runs/{journal.run_id}"
    protocols = [Subprotocol("matyan.v2")] if binary else None
    while journal.accepted_frames < journal.frames:
        if time.monotonic() > deadline:
            msg = f"{journal.run_id}: {journal.accepted_frames} of {journal.frames}"
            raise TimeoutError(msg)
        try:
            with connect(address, subprotocols=protocols, open_timeout=5) as socket:
                _send_some(journal, socket, binary=binary)
        except (OSError, WebSocketException, TimeoutError):
            time.sleep(0.05)


def _send_some(journal: Journal, socket: ClientConnection, *, binary: bool) -> None:
    while journal.accepted_frames < journal.frames:
        frame = journal.accepted_frames
        journal.sends += 1
        if binary:
            socket.send(b"\x00" + encode_batch(journal.batch(frame)))
        else:
            socket.send(journal.json_text(frame))
        answer = json.loads(socket.recv(timeout=20))
        if answer["status"] != "ok":
            raise TimeoutError(answer["error"])
        journal.accepted_frames += 1


def assert_exact(
    store: Store, journals: Sequence[Journal], *, others: Collection[str] = ()
) -> None:
    """Require exactly the accepted points: none missing, none doubled, none else.

    Args:
        store: Where they should be.
        journals: What was accepted.
        others: Ids of runs that are there besides, and are not looked at.
    """
    numbers = {journal.run_id: _run_number(store, journal) for journal in journals}
    page = store.engine.read(lambda tr: store.runs.page(tr, limit=1_000))
    assert {run.run_id for run in page} == {*numbers, *others}
    for journal in journals:
        _assert_run_exact(store, journal, numbers[journal.run_id])


def _run_number(store: Store, journal: Journal) -> int:
    return store.engine.read(lambda tr: store.runs.get(tr, journal.run_id)).number


def _assert_run_exact(store: Store, journal: Journal, number: int) -> None:
    listed = store.engine.read(lambda tr: store.series.list(tr, number))
    assert sorted(s.name for s in listed) == [f"m{n}" for n in range(SERIES)]
    for series in listed:
        points = store.engine.read(
            lambda tr, series=series: store.series.read_points(
                tr, number, series.number
            )
        )
        steps, values, times_us = journal.expected(int(series.name[1:]))
        np.testing.assert_array_equal(points.steps, steps)
        np.testing.assert_array_equal(
            points.values.view(np.int64), values.view(np.int64)
        )
        np.testing.assert_array_equal(points.times_us, times_us)
        assert series.summary.count == len(steps)
