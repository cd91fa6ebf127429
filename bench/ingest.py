"""Points per second from WebSocket frames until a query sees the last of them."""

from __future__ import annotations

import json
import multiprocessing
import time
import uuid
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from typing import Any

import httpx
import numpy as np
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from bench.batches import json_frame, point_batch
from matyan_project.local_server import LocalServer

CONNECTIONS = 4
PLAIN = b"\x00"
WINDOW = 8


def ingest_json(server: LocalServer, *, points: int = 1_200_000) -> dict[str, Any]:
    """Frames of 1,000 JSON points (10 series × 100 steps) over 4 connections."""
    return _measure(server, "ingest_json_points_per_s", _send_json, 10, 100, points)


def ingest_binary(server: LocalServer, *, points: int = 8_000_000) -> dict[str, Any]:
    """Columnar frames of 10,000 points (100 series × 100 steps), 4 connections."""
    return _measure(
        server, "ingest_binary_points_per_s", _send_binary, 100, 100, points
    )


def _measure(
    server: LocalServer, name: str, send: Any, series: int, steps: int, points: int
) -> dict[str, Any]:
    frames = points // CONNECTIONS // (series * steps)
    barrier = multiprocessing.Barrier(CONNECTIONS + 1)
    run_ids = [uuid.uuid4().hex for _ in range(CONNECTIONS)]
    senders = [
        multiprocessing.Process(
            target=send,
            args=(server.frontier_url, run_id, series, steps, frames, barrier),
        )
        for run_id in run_ids
    ]
    for sender in senders:
        sender.start()
    barrier.wait(timeout=120)
    started = time.perf_counter()
    _wait_until_queryable(server.url, run_ids, last_step=frames * steps - 1)
    seconds = time.perf_counter() - started
    for sender in senders:
        sender.join(timeout=30)
    total = frames * series * steps * CONNECTIONS
    return {
        "name": name,
        "value": round(total / seconds),
        "unit": "points/s",
        "points": total,
    }


def _wait_until_queryable(url: str, run_ids: list[str], *, last_step: int) -> None:
    deadline = time.monotonic() + 300
    waiting = list(run_ids)
    with httpx.Client(base_url=url, timeout=30) as client:
        while waiting:
            waiting = [r for r in waiting if _last_step(client, r) < last_step]
            if time.monotonic() > deadline:
                msg = f"not queryable after 300 s: {waiting}"
                raise TimeoutError(msg)
            time.sleep(0.05)


def _last_step(client: httpx.Client, run_id: str) -> int:
    answer = client.post(
        f"/api/v1/rest/runs/{run_id}/metric/get-batch",
        params={"record_density": 2},
        json=[{"name": "metric_0", "context": {"subset": "train"}}],
    )
    if answer.status_code != 200 or not answer.json():
        return -1
    return int(answer.json()[0]["iters"][-1])


def _websocket_url(url: str, run_id: str) -> str:
    return f"{url.replace('http', 'ws', 1)}/api/v1/ws/runs/{run_id}"


def _send_json(
    url: str, run_id: str, series: int, steps: int, frames: int, barrier: Barrier
) -> None:
    generator = np.random.default_rng()
    texts = [
        json_frame(run_id, generator, series=series, first_step=i * steps, steps=steps)
        for i in range(frames)
    ]
    with connect(_websocket_url(url, run_id), compression=None) as connection:
        barrier.wait(timeout=120)
        # One frame in flight: the protocol of the JSON client.
        for text in texts:
            connection.send(text)
            _require_ok(connection)


def _send_binary(
    url: str, run_id: str, series: int, steps: int, frames: int, barrier: Barrier
) -> None:
    generator = np.random.default_rng()
    bodies = [
        PLAIN
        + point_batch(
            run_id,
            generator,
            series=series,
            first_step=i * steps,
            steps=steps,
            seq=i + 1,
        )
        for i in range(frames)
    ]
    with connect(
        _websocket_url(url, run_id),
        compression=None,
        subprotocols=[Subprotocol("matyan.v2")],
    ) as connection:
        barrier.wait(timeout=120)
        in_flight = 0
        for body in bodies:
            connection.send(body)
            in_flight += 1
            if in_flight == WINDOW:
                _require_ok(connection)
                in_flight -= 1
        for _ in range(in_flight):
            _require_ok(connection)


def _require_ok(connection: ClientConnection) -> None:
    answer = json.loads(connection.recv(timeout=60))
    if answer["status"] != "ok":
        raise RuntimeError(answer["error"])


def freshness(
    server: LocalServer, *, seconds: float = 10.0, rate: int = 10_000
) -> Iterator[dict[str, Any]]:
    """Seconds from `track()` to readable by a query, at `rate` points/s."""
    run_id = uuid.uuid4().hex
    tracker = multiprocessing.Process(
        target=_track_clock, args=(server.url, run_id, seconds, rate)
    )
    tracker.start()
    ages: list[float] = []
    with httpx.Client(base_url=server.url, timeout=10) as client:
        last = 0.0
        while tracker.is_alive():
            value = _newest_value(client, run_id)
            if value is not None and value != last:
                ages.append(time.time() - value)
                last = value
            time.sleep(0.01)
    tracker.join()
    steady = ages[len(ages) // 10 :]
    for percent in (50, 95):
        yield {
            "name": f"freshness_p{percent}",
            "value": round(float(np.percentile(steady, percent)), 4),
            "unit": "s",
            "points_per_s": rate,
            "samples": len(steady),
        }


def _newest_value(client: httpx.Client, run_id: str) -> float | None:
    answer = client.post(
        f"/api/v1/rest/runs/{run_id}/metric/get-batch",
        params={"record_density": 2},
        json=[{"name": "clock", "context": {}}],
    )
    if answer.status_code != 200 or not answer.json():
        return None
    return float(answer.json()[0]["values"][-1])


def _track_clock(url: str, run_id: str, seconds: float, rate: int) -> None:
    from matyan_client import Run

    run = Run(run_id, repo=url, capture_terminal_logs=False)
    started = time.perf_counter()
    for tick in range(int(seconds * 1_000)):
        for _ in range(rate // 1_000 - 1):
            run.track(1.0, name="filler")
        run.track(time.time(), name="clock")
        pause = started + (tick + 1) / 1_000 - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
    run.close()
