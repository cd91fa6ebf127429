"""An ingestion worker for tests: the real loop and handler, interrupted as told.

Told what to do in one JSON argument; says what it does, a JSON line each.

Roles:
    work     runs the loop until SIGTERM. With `die_after`: kills itself with SIGKILL
             when that many batches are in the store and the last one's offsets are not
             committed. With `hold_at`: says "holding" before it applies the batch of
             that number, and waits for a line.
    apply    waits for a line, then applies every record of the topic, in batches, as a
             worker would that believes all partitions to be its own
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from backend.bus.base import EventLog, Record
from backend.bus.factory import open_event_log
from backend.bus.topics import INGESTION, INGESTION_GROUP, TOPICS
from backend.storage.factory import Store, open_store
from workers.handlers import ingest
from workers.handlers.base import Outcome
from workers.loop import LoopOptions, Source, WorkerLoop
from workers.metrics import WorkerMetrics


def say(word: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"word": word, **more}) + "\n")
    sys.stdout.flush()


def now_us() -> int:
    return time.time_ns() // 1000


class Interrupted:
    """The ingestion handler, and what befalls it."""

    def __init__(self, store: Store, *, die_after: int, hold_at: int) -> None:
        self._store = store
        self._die_after = die_after
        self._hold_at = hold_at
        self._batches = 0

    def __call__(self, records: Sequence[Record]) -> Outcome:
        self._batches += 1
        if self._batches == self._hold_at:
            say("holding", records=len(records))
            sys.stdin.readline()
        outcome = ingest.handle(records, self._store)
        say("applied", records=len(records), skipped=outcome.skipped)
        if self._batches == self._die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome


def work(
    log: EventLog,
    store: Store,
    *,
    die_after: int = 0,
    hold_at: int = 0,
    max_records: int = 20,
) -> None:
    log.ensure_topics(TOPICS)
    loop = WorkerLoop(
        Source(log, log.producer(), INGESTION_GROUP, (INGESTION,)),
        Interrupted(store, die_after=die_after, hold_at=hold_at),
        metrics=WorkerMetrics("ingestion", registry=CollectorRegistry()),
        now_us=now_us,
        options=LoopOptions(
            max_records=max_records, poll_s=0.2, heartbeat_s=0.3, longest_pause_s=0.5
        ),
    )
    signal.signal(signal.SIGTERM, lambda *_: loop.request_stop())
    say("started")
    loop.run()
    say("stopped")


def apply(log: EventLog, store: Store, *, seed: int) -> None:
    log.ensure_topics(TOPICS)
    chosen = random.Random(seed)
    say("ready")
    sys.stdin.readline()
    for lag in log.lag(group=INGESTION_GROUP, topics=[INGESTION]):
        offset = 0
        while records := log.read(
            INGESTION,
            partition=lag.partition,
            offset=offset,
            max_records=chosen.randint(1, 12),
        ):
            ingest.handle(records, store)
            offset = records[-1].position.offset + 1
    say("done")


ROLES = {"work": work, "apply": apply}

if __name__ == "__main__":
    told_to_stderr = logging.StreamHandler(sys.stderr)
    told_to_stderr.setFormatter(
        logging.Formatter(
            "%(asctime)s %(process)d %(name)s %(message)s %(reason)s",
            defaults={"reason": ""},
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[told_to_stderr])
    told = json.loads(sys.argv[1])
    opened = open_event_log(**told.pop("log"))
    ROLES[told.pop("role")](opened, open_store(**told.pop("store")), **told)
    opened.close()
