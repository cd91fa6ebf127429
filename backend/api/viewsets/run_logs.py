"""What a run printed and logged: streams of lines and of records by step.

Pages ask for the end first and scroll back by ranges; while a run is active they ask
for the newest every few seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.http import StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request

from backend.api import schema
from backend.api.fields import Range, read_params
from backend.api.serializers.runs import LogParams
from backend.api.streaming import stream_response
from backend.api.trees import seconds
from backend.api.viewsets.base import StoreViewSet
from backend.domain.series import ObjectPoints, Series
from backend.storage.engine.base import ReadTransaction
from backend.storage.factory import Store
from matyan_wire.batch import decode_payload
from matyan_wire.tree_stream import encode_tree

_NAMES: Final = {"logs": "logs", "log_records": "__log_records"}
"""What writers call a run's one series of each kind."""

_LEVELS: Final = (
    logging.CRITICAL,
    logging.ERROR,
    logging.WARNING,
    logging.INFO,
    logging.DEBUG,
)

LAST_LINES: Final = 200
LAST_RECORDS: Final = 1_000
"""More than a page shows: the web UI cannot reach the records before them."""


class RunLogViewSet(StoreViewSet):
    """Terminal lines and log records of a run; an unknown run has none."""

    lookup_field = "run_id"

    @extend_schema(
        parameters=[schema.RUN_ID, LogParams],
        responses={**schema.STREAMED, **schema.REFUSED},
    )
    @action(detail=True)
    def logs(self, request: Request, run_id: str) -> StreamingHttpResponse:
        """Stream `{step: line}`, ascending; without a range the last 200."""
        steps = read_params(request, LogParams)["record_range"]
        log = _find_log(self.store, run_id, kind="logs", steps=steps, last=LAST_LINES)
        return stream_response(request, _lines(self.store, log))

    @extend_schema(
        parameters=[schema.RUN_ID, LogParams],
        responses={**schema.STREAMED, **schema.REFUSED},
    )
    @action(detail=True, url_path="log-records")
    def log_records(self, request: Request, run_id: str) -> StreamingHttpResponse:
        """Stream the number of records, then `{step: record}`, ascending."""
        steps = read_params(request, LogParams)["record_range"]
        log = _find_log(
            self.store, run_id, kind="log_records", steps=steps, last=LAST_RECORDS
        )
        return stream_response(
            request, _records(self.store, log, levels=_known_levels(request))
        )


@dataclass(frozen=True, slots=True)
class _Log:
    run_number: int
    series_number: int
    start: int
    stop: int
    shown_count: int


def _find_log(
    store: Store, run_id: str, *, kind: str, steps: Range, last: int
) -> _Log | None:
    """Return the run's log of this kind with the steps to send, or None."""
    series = store.engine.read(lambda tr: _find_series(store, tr, run_id, kind))
    if series is None or series.summary is None:
        return None
    summary = series.summary
    start, stop = steps
    if start is None and stop is None:
        start = summary.last_step - last + 1
    # Negative steps have no place in the stream's keys.
    first = max(0, summary.first_step)
    return _Log(
        run_number=series.run_number,
        series_number=series.number,
        start=first if start is None else max(first, start),
        stop=min(summary.last_step + 1, stop if stop is not None else 2**63 - 1),
        # A count above the last step + 1 crashes the page that shows it.
        shown_count=max(0, min(summary.count, summary.last_step + 1)),
    )


def _find_series(
    store: Store, tr: ReadTransaction, run_id: str, kind: str
) -> Series | None:
    run = store.runs.find(tr, run_id)
    if run is None:
        return None
    return store.series.find(tr, run.number, kind=kind, name=_NAMES[kind])


def _lines(store: Store, log: _Log | None) -> Iterator[bytes]:
    for points in _pieces(store, log):
        yield b"".join(
            encode_tree({step: _line(payload)})
            for step, payload in zip(
                points.steps.tolist(), points.payloads, strict=True
            )
        )


def _line(payload: bytes) -> str:
    return str(decode_payload(payload))


def _known_levels(request: Request) -> Sequence[int]:
    """Return the levels the caller knows: any other crashes the web UI's page.

    Pages are told by the header that they send with every request and nobody else does.
    """
    return _LEVELS[1:] if "X-Timezone-Offset" in request.headers else _LEVELS


def _records(
    store: Store, log: _Log | None, *, levels: Sequence[int]
) -> Iterator[bytes]:
    count = 0 if log is None else log.shown_count
    yield encode_tree({"log_records_count": count})
    for points in _pieces(store, log):
        yield b"".join(
            encode_tree({step: _record(payload, time_us, levels=levels)})
            for step, payload, time_us in zip(
                points.steps.tolist(),
                points.payloads,
                points.times_us.tolist(),
                strict=True,
            )
        )


def _record(payload: bytes, time_us: int, *, levels: Sequence[int]) -> dict[str, Any]:
    record = decode_payload(payload)
    return {
        "message": record.get("message", ""),
        "log_level": _level_name(record.get("log_level"), known=levels),
        "timestamp": record.get("timestamp", seconds(time_us)),
        "args": record.get("args"),
        "logger_info": record.get("logger_info"),
        "is_notified": True,
    }


def _level_name(level: Any, *, known: Sequence[int]) -> str:
    """Return the name of the known level at or below `level`."""
    if isinstance(level, str):
        level = logging.getLevelNamesMapping().get(level.upper())
    if not isinstance(level, int | float):
        level = logging.INFO
    floor = next((one for one in known if level >= one), logging.DEBUG)
    return logging.getLevelName(floor)


def _pieces(store: Store, log: _Log | None) -> Iterator[ObjectPoints]:
    """Yield the log's points in pieces of about 1 MB, each read on its own."""
    if log is None or log.start >= log.stop:
        return iter(())
    return store.series.iter_objects(
        store.engine, log.run_number, log.series_number, start=log.start, stop=log.stop
    )
