"""Memory while the event log takes nothing and clients keep sending."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typing_extensions import override
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from matyan_wire import batch as wire
from matyan_wire.batch_builder import BatchBuilder
from matyan_wire.frames import SUBPROTOCOL, encode_frame
from tests.frontier.processes import GatewayProcess, running_gateway

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MEBIBYTE = 1024 * 1024
LIMIT_BYTES = 256 * MEBIBYTE
PUSHED_BYTES = 1024 * MEBIBYTE
PUSH_S = 200.0


class Pusher(threading.Thread):
    """Sends a frame again and again without reading, reconnecting when closed."""

    def __init__(self, url: str, frame: str | bytes, *, budget: int) -> None:
        super().__init__()
        self.sent_bytes = 0
        self.closings = 0
        self._url = url
        self._frame = frame
        self._budget = budget
        self._deadline = time.monotonic() + PUSH_S

    @override
    def run(self) -> None:
        while self.sent_bytes < self._budget and time.monotonic() < self._deadline:
            try:
                self._push()
            except (ConnectionClosed, InvalidStatus, OSError, TimeoutError):
                self.closings += 1

    def _push(self) -> None:
        binary = isinstance(self._frame, bytes)
        with connect(
            self._url,
            compression=None,
            ping_interval=None,
            close_timeout=0.1,
            subprotocols=[Subprotocol(SUBPROTOCOL)] if binary else None,
        ) as socket:
            while self.sent_bytes < self._budget:
                socket.send(self._frame)
                self.sent_bytes += len(self._frame)


def json_points(size: int) -> str:
    item = {"type": "log_metric", "name": "loss", "value": 0.5, "context": {"a": "b"}}
    text = json.dumps({**item, "step": 10_000_000, "epoch": 1})
    return f"[{','.join([text] * (size // (len(text) + 1)))}]"


def json_figure(size: int) -> str:
    # Several figures, since one object may be 7 MB at most.
    data = {"data": [0.123456789] * (MEBIBYTE // 13)}
    item = {"type": "log_custom_object", "dtype": "figure", "name": "f", "step": 1}
    text = json.dumps({**item, "value": data})
    return f"[{','.join([text] * max(1, size // len(text)))}]"


def binary_points(size: int) -> bytes:
    builder = BatchBuilder(run_id="r")
    series = builder.series_index(wire.SeriesRef("metric", "loss"))
    for step in range(size // 28):
        builder.add_point(
            series, step=step, value=0.5, time_us=step, epoch=float("nan")
        )
    batch = builder.build()
    assert batch is not None
    batch.position = wire.Position(epoch=0, seq=1, writer="w")
    return encode_frame(wire.encode_batch(batch))


FRAMES: dict[str, tuple[Callable[[int], str | bytes], int]] = {
    "1 MB JSON points": (json_points, MEBIBYTE),
    "16 MB JSON points": (json_points, 16 * MEBIBYTE - 1000),
    "16 MB JSON figures": (json_figure, 16 * MEBIBYTE),
    "1 MB binary points": (binary_points, MEBIBYTE),
    "16 MB binary points": (binary_points, 16 * MEBIBYTE - 1000),
}


def push(gateway: GatewayProcess, frame: str | bytes, *, connections: int) -> int:
    """Push about 1 GB from several connections; return the bytes sent."""
    pushers = [
        Pusher(gateway.run_url("r"), frame, budget=PUSHED_BYTES // connections)
        for _ in range(connections)
    ]
    for pusher in pushers:
        pusher.start()
    while any(pusher.is_alive() for pusher in pushers):
        assert gateway.get("/health/live/")[0] == 200
        time.sleep(0.2)
    return sum(pusher.sent_bytes for pusher in pushers)


@pytest.mark.parametrize(
    "name",
    [
        "1 MB JSON points",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in FRAMES
            if name != "1 MB JSON points"
        ),
    ],
)
def test_memory_is_bounded_while_the_log_refuses(name: str, tmp_path: Path) -> None:
    make, size = FRAMES[name]
    with running_gateway(
        tmp_path,
        MATYAN_BUS={"ENGINE": "tests.frontier.failing_logs.RefusingLog"},
        MATYAN_ACK_HOLD_SECONDS=0.5,
    ) as gateway:
        sent = push(gateway, make(size), connections=6)
        assert gateway.peak_rss_bytes() <= LIMIT_BYTES
        assert sent >= PUSHED_BYTES
