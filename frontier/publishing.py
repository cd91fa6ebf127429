"""Making one record durable, trying again while the event log fails.

Design note: docs/subsystems/frontier.md#delivery
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from backend.bus import topics
from backend.errors import EventLogError, RecordTooLargeError
from frontier import producer
from frontier.gateway import LogHealth

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0


class HoldExpiredError(Exception):
    """The record has not become durable in time; it may still."""


async def publish_durably(
    record: bytes, *, run_id: str, health: LogHealth, deadline_s: float
) -> None:
    """Append a record of a run to the event log; return when it is durable.

    The first attempt is made before anything is waited for, so calls that begin in an
    order are appended in it unless one fails.

    Args:
        record: An encoded envelope.
        run_id: The run; records of one stay in order.
        health: Told of each success and failure.
        deadline_s: When to give up, on the monotonic clock.

    Raises:
        RecordTooLargeError: If the log will never take it.
        HoldExpiredError: If it was not durable in time.
    """
    key = run_id.encode()
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            await _append(record, key, deadline_s)
        except RecordTooLargeError:
            raise
        except EventLogError as error:
            health.note_failure(error)
        else:
            health.note_success()
            return
        if time.monotonic() + pause_s > deadline_s:
            raise HoldExpiredError
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def _append(record: bytes, key: bytes, deadline_s: float) -> None:
    opened = producer.find_producer()
    if opened is None:
        opened = await asyncio.to_thread(producer.get_producer)
    future = opened.publish(topics.INGESTION, key=key, value=record)
    try:
        async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
            await asyncio.wrap_future(future)
    except TimeoutError:
        raise HoldExpiredError from None
