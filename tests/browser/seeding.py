"""A project with data of every kind, written through the data layer.

Four runs of two experiments: `full` has everything a run can have and has ended,
`live` is being written, `plain` has metrics only and is archived, `odd` has what trips
pages up: empty keys, huge integers, values that are no numbers, names with quotes.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
import wave
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backend.blobs.base import BlobStore
from backend.domain.blobs import blob_key, new_blob_id
from backend.services import notes, tags
from backend.storage.factory import Store, open_store
from matyan_wire import batch as wire
from tests.backend.api.conftest import T0_US, Writer

STEPS = 40
OBJECT_STEPS = 6
TRAIN, VAL = {"subset": "train"}, {"subset": "val"}
SYSTEM_PARAMS = {
    "packages": {"numpy": "2.4.6", "matyan-client": "0.4.0"},
    "env_variables": {"LANG": "C.UTF-8"},
    "git_info": {
        "branch": "main",
        "remote_origin_url": "https://example.org/digits.git",
        "commit": {
            "hash": "0123456789abcdef",
            "timestamp": "2026-11-23T08:00:00",
            "author": "ada@example.org",
        },
    },
    "executable": "/usr/bin/python3",
    "arguments": ["train.py", "--lr", "0.01"],
}


def seed(data_dir: Path, blobs: BlobStore) -> None:
    """Write the project into the embedded store of a data directory."""
    with contextlib.closing(
        open_store(
            engine="backend.storage.engine.embedded.EmbeddedEngine",
            options={"path": str(data_dir / "store"), "durable": False},
        )
    ) as store:
        seeder = _Seeder(store, blobs)
        seeder.full("full", second=0)
        seeder.plain("plain", second=10)
        seeder.odd("odd", second=20)
        seeder.live("live", second=30)
        seeder.documents()


class _Seeder:
    def __init__(self, store: Store, blobs: BlobStore) -> None:
        self.store = store
        self.blobs = blobs
        self.writer = Writer(store)

    # --- runs ------------------------------------------------------------------------

    def full(self, run_id: str, *, second: int) -> None:
        self.writer.run(
            run_id,
            second=second,
            name="Full run",
            description="Everything a run can have",
            experiment="digits",
            tags=("baseline", "good"),
            attributes={
                "hparams": {"lr": 0.01, "layers": [64, 32], "optimizer": "adam"},
                "dataset": {"name": "digits", "size": 1797},
                "__system_params": SYSTEM_PARAMS,
            },
        )
        self._metrics(run_id, slope=1.0)
        self._objects(run_id)
        self._system(run_id)
        self._logs(run_id, lines=230)
        self._records(run_id, count=12)
        self._artifact(run_id, "model/weights.bin", b"\x00\x01" * 2048)
        self._artifact(run_id, "report.txt", b"all well\n")
        self._seal(run_id)
        self.writer.finish(run_id, second=second + 3600)
        notes.create_note(
            self.store,
            owner_kind="run",
            owner_id=run_id,
            content="# Findings\n\nThe loss *falls*.",
            now_us=T0_US,
        )

    def plain(self, run_id: str, *, second: int) -> None:
        self.writer.run(
            run_id, second=second, name="Plain run", experiment="digits", archived=True
        )
        self._metrics(run_id, slope=0.5)
        self.writer.finish(run_id, second=second + 60)

    def odd(self, run_id: str, *, second: int) -> None:
        self.writer.run(
            run_id,
            second=second,
            name='Odd <run> & "quotes" é',
            experiment="it's odd",
            tags=("good",),
            attributes={
                "": {"": 1},
                "big": 2**60,
                "small": -(2**40),
                "nothing": None,
                "not a number": math.nan,
                "nested": {"a": {"b": {"c": [1, [2, {"d": 3}]]}}},
                "empty": {"list": [], "dict": {}},
            },
        )
        values = [1.0, math.nan, math.inf, -math.inf, 2.0]
        self.writer.metric(run_id, "loss", values, context={"kind": 'c"d'})
        self.writer.metric(run_id, "one point", [0.5])
        self.writer.objects(run_id, "texts", "note", [{"data": "lonely text"}])
        missing = {
            "type": "image",
            "format": "png",
            "s3_key": f"{run_id}/seq/gone/0.png",
        }
        self.writer.objects(run_id, "images", "gone", [missing])
        self.writer.finish(run_id, second=second + 5)

    def live(self, run_id: str, *, second: int) -> None:
        self.writer.run(
            run_id,
            second=second,
            name="Live run",
            experiment="digits",
            tags=("baseline",),
            attributes={"hparams": {"lr": 0.1, "optimizer": "sgd"}},
        )
        self._metrics(run_id, slope=2.0)
        self._objects(run_id)
        self._logs(run_id, lines=20)
        self._records(run_id, count=3)

    def documents(self) -> None:
        tags.create_tag(
            self.store,
            name="unused",
            color="#2A9D8F",
            description="On no run",
            now_us=T0_US,
        )
        experiments = self.store.engine.read(self.store.experiments.list_all)
        digits = next(one for one in experiments if one.name == "digits")
        notes.create_note(
            self.store,
            owner_kind="experiment",
            owner_id=digits.experiment_id,
            content="An experiment's note",
            now_us=T0_US,
        )

    # --- series ----------------------------------------------------------------------

    def _metrics(self, run_id: str, *, slope: float) -> None:
        steps = np.arange(STEPS)
        falling = np.exp(-slope * steps / STEPS)
        self.writer.metrics(
            run_id,
            [
                ("loss", TRAIN, falling),
                ("loss", VAL, falling * 1.2),
                ("accuracy", VAL, 1 - falling),
            ],
            times_us=T0_US + steps * 30_000_000,
            epochs=np.tile(steps // 10, 3),
        )

    def _system(self, run_id: str) -> None:
        steps = np.arange(STEPS)
        self.writer.metrics(
            run_id,
            [
                ("__system__cpu", None, 50 + 10 * np.sin(steps)),
                ("__system__memory_percent", None, 30 + steps / 10),
                ("__system__gpu_memory_percent", {"gpu": 0}, 60 + steps / 5),
            ],
        )

    def _objects(self, run_id: str) -> None:
        steps = range(OBJECT_STEPS)
        for name, context in (("digit", TRAIN), ("digit", VAL), ("confusion", VAL)):
            self._blobs(run_id, "images", name, context, "png", _png)
        self._blobs(run_id, "audios", "tone", TRAIN, "wav", _wav)
        self.writer.objects(
            run_id,
            "texts",
            "sample",
            [
                [
                    {"type": "text", "data": f"step {step}, item {item}"}
                    for item in range(3)
                ]
                for step in steps
            ],
            context=VAL,
        )
        self.writer.objects(
            run_id, "distributions", "weights", [_histogram(step) for step in steps]
        )
        self.writer.objects(
            run_id, "figures", "scatter", [_figure(step) for step in steps], context=VAL
        )

    def _blobs(
        self,
        run_id: str,
        kind: str,
        name: str,
        context: dict[str, str],
        ext: str,
        make: Any,
    ) -> None:
        payloads = []
        for step in range(OBJECT_STEPS):
            items = []
            for item in range(2):
                path = f"seq/{context['subset']}-{name}/{step}-{item}.{ext}"
                self._upload(run_id, path, make(step * 2 + item))
                items.append(
                    {
                        "type": kind.removesuffix("s"),
                        "format": ext,
                        "caption": f"{name} {step}.{item}",
                        "width": 32,
                        "height": 32,
                        "s3_key": f"{run_id}/{path}",
                    }
                )
            payloads.append(items)
        self.writer.objects(run_id, kind, name, payloads, context=context)

    def _artifact(self, run_id: str, path: str, data: bytes) -> None:
        self._upload(run_id, path, data)
        ref = wire.BlobRef(path, f"{run_id}/{path}", "application/octet-stream")
        self.writer.send(run_id, events=[ref])

    def _upload(self, run_id: str, path: str, data: bytes) -> None:
        blob_id = new_blob_id(now_us=T0_US)
        self.writer.send(run_id, events=[wire.BlobGrant(path, blob_id)])
        self.blobs.put(blob_key(run_id, path, blob_id), [data])

    def _logs(self, run_id: str, *, lines: int) -> None:
        payloads = [f"epoch {line}: loss={1 / (line + 1):.4f}" for line in range(lines)]
        self.writer.objects(run_id, "logs", "logs", payloads)

    def _records(self, run_id: str, *, count: int) -> None:
        levels = (10, 20, 30, 40, 50)
        payloads = [
            {
                "message": f"message {index}",
                "log_level": levels[index % 5],
                "timestamp": T0_US / 1e6 + index,
                "args": {"index": index},
                "logger_info": ["train.py", index],
            }
            for index in range(count)
        ]
        self.writer.objects(run_id, "log_records", "__log_records", payloads)

    def _seal(self, run_id: str) -> None:
        run = self.store.engine.read(lambda tr: self.store.runs.get(tr, run_id))
        self.store.series.seal(self.store.engine, run.number)


# --- objects -------------------------------------------------------------------------


def _png(seed_number: int, *, size: int = 32) -> bytes:
    """Return a small picture that differs from every other one."""
    ys, xs = np.mgrid[0:size, 0:size]
    red = (xs * 8 + seed_number * 20) % 256
    green = (ys * 8) % 256
    blue = np.full_like(red, seed_number * 15 % 256)
    pixels = np.stack([red, green, blue], axis=2).astype(np.uint8)
    raw = b"".join(b"\x00" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body))
        + name
        + body
        + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(raw)),
            (b"IEND", b""),
        )
    )


def _wav(seed_number: int) -> bytes:
    """Return two seconds of a tone."""
    rate = 8000
    times = np.arange(2 * rate) / rate
    tone = np.sin(2 * np.pi * (220 + 40 * seed_number) * times)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((tone * 12000).astype("<i2").tobytes())
    return buffer.getvalue()


def _histogram(step: int) -> dict[str, Any]:
    centres = np.linspace(-3, 3, 64)
    weights = np.exp(-((centres - step / 5) ** 2)) * 100
    return {
        "type": "distribution",
        "bin_count": 64,
        "range": [-3, 3],
        "data": weights.round().tolist(),
    }


def _figure(step: int) -> dict[str, Any]:
    xs: Sequence[int] = range(20)
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(xs),
        "y": [math.sin(x / 3 + step) for x in xs],
        "name": f"step {step}",
    }
    return {
        "type": "figure",
        "data": {"data": [trace], "layout": {"title": {"text": f"Figure {step}"}}},
    }
