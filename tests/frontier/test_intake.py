from __future__ import annotations

from typing import Any, cast

import pytest

from frontier.websocket_protocol import Intake, PacedWebSocketProtocol


class Connection:
    """A connection as the intake sees it."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.reading = True
        self.failed = False

    def holds(self, *, partial: int = 0, complete: int = 0) -> None:
        me = cast("PacedWebSocketProtocol", self)
        self.intake.note(me, partial=partial, complete=complete)

    def leaves(self) -> None:
        self.intake.forget(cast("PacedWebSocketProtocol", self))

    def set_intake_open(self, *, is_open: bool) -> None:
        self.reading = is_open

    def fail_stalled(self) -> None:
        self.failed = True


@pytest.fixture
def intake() -> Intake:
    return Intake(limit=100, stall_s=0.01)


def connections(intake: Intake, count: int) -> list[Any]:
    return [Connection(intake) for _ in range(count)]


async def test_all_are_read_below_the_limit(intake: Intake) -> None:
    first, second = connections(intake, 2)
    first.holds(partial=50)
    second.holds(partial=49)
    assert first.reading
    assert second.reading


async def test_one_completes_its_frame_while_the_others_wait(intake: Intake) -> None:
    first, second, third = connections(intake, 3)
    first.holds(partial=40)
    second.holds(partial=40)
    third.holds(partial=40)
    assert [c.reading for c in (first, second, third)] == [True, True, True]
    first.holds(partial=60)
    second.holds(partial=60)
    # The third was the first to pass the limit: it has the turn.
    assert [c.reading for c in (first, second, third)] == [False, False, True]
    third.holds(partial=300)
    assert third.reading
    third.holds(complete=300)
    # A complete frame is for the application; nobody need be read for that.
    assert [c.reading for c in (first, second, third)] == [False, False, False]
    third.holds()
    assert first.reading
    assert not second.reading
    first.holds()
    assert [c.reading for c in (first, second, third)] == [True, True, True]
    assert intake.used == 60


async def test_a_connection_that_leaves_frees_its_turn_and_bytes(
    intake: Intake,
) -> None:
    first, second, third = connections(intake, 3)
    first.holds(partial=150)
    second.holds(partial=20)
    third.holds(partial=30)
    assert [c.reading for c in (first, second, third)] == [True, False, False]
    first.leaves()
    assert second.reading
    assert third.reading
    assert intake.used == 50


async def test_a_turn_without_progress_is_ended(intake: Intake) -> None:
    import asyncio

    first, second = connections(intake, 2)
    first.holds(partial=150)
    second.holds(partial=1)
    for _ in range(500):
        if first.failed:
            break
        await asyncio.sleep(0.01)
    assert first.failed
    first.leaves()
    assert second.reading
