"""Another process on the same event log, for tests; told what to do in one JSON.

Roles:
    produce  publishes `count` records of `producer`, says each acknowledgement
    consume  polls until `count` records came, says what it owns and what came;
             commits after each batch if `commit`
    zombie   polls, says what came, waits for a line, commits, says how that went
"""

from __future__ import annotations

import json
import random
import sys
import time
import zlib
from concurrent.futures import Future
from typing import Any

from backend.bus.base import EventLog, RecordPosition
from backend.bus.factory import open_event_log
from backend.errors import EventLogFullError, StaleConsumerError
from tests.backend.bus.harness import next_offsets


def say(word: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"word": word, **more}) + "\n")
    sys.stdout.flush()


def sealed(producer: str, number: int) -> bytes:
    """Return a value that tells who made it and whether it is whole."""
    size = random.Random(f"{producer}/{number}").choice([0, 10, 1_000, 10_000])
    body = f"{producer}/{number}/".encode() + b"x" * size
    return zlib.crc32(body).to_bytes(4, "big") + body


def unsealed(value: bytes) -> tuple[str, int]:
    """Return (producer, number) of a sealed value, which must be whole."""
    body = value[4:]
    assert zlib.crc32(body).to_bytes(4, "big") == value[:4], "a torn record"
    producer, number, _rest = body.split(b"/", 2)
    return producer.decode(), int(number)


def produce(log: EventLog, *, topic: str, producer: str, count: int) -> None:
    appending = log.producer()
    say("started")

    def confirm(number: int, future: Future[RecordPosition]) -> None:
        place = future.result()
        say("ack", number=number, partition=place.partition, offset=place.offset)

    for number in range(count):
        key = b"%d" % (number % 7)
        while True:
            try:
                future = appending.publish(
                    topic, key=key, value=sealed(producer, number)
                )
            except EventLogFullError:
                time.sleep(0.005)
            else:
                break
        future.add_done_callback(lambda f, n=number: confirm(n, f))
    appending.flush(timeout_s=60.0)
    appending.close()
    say("done")


def consume(log: EventLog, *, topic: str, group: str, commit: bool, count: int) -> None:
    consumer = log.consumer(group=group, topics=[topic])
    heard = owned = 0
    while heard < count:
        if owned != len(consumer.assignment()):
            owned = len(consumer.assignment())
            say("owns", partitions=owned)
        records = consumer.poll(max_records=50, max_bytes=1 << 20, timeout_s=0.2)
        if records:
            say("got", numbers=[unsealed(r.value) for r in records])
            heard += len(records)
        if records and commit:
            consumer.commit(next_offsets(records))
            say("committed", numbers=[unsealed(r.value) for r in records])


def zombie(log: EventLog, *, topic: str, group: str) -> None:
    consumer = log.consumer(group=group, topics=[topic])
    records = []
    while not records:
        records = consumer.poll(max_records=1, max_bytes=1, timeout_s=0.2)
    say("got", owned=len(consumer.assignment()))
    sys.stdin.readline()
    try:
        consumer.commit(next_offsets(records))
    except StaleConsumerError as error:
        say("refused", code=error.code)
    else:
        say("committed")


ROLES = {"produce": produce, "consume": consume, "zombie": zombie}

if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    opened = open_event_log(engine=told.pop("engine"), options=told.pop("options"))
    ROLES[told.pop("role")](opened, **told)
    opened.close()
