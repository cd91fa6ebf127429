from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from frontier.limits import ByteBudget, GatewayLimits


def test_limits_come_from_settings() -> None:
    assert GatewayLimits.from_settings(SimpleNamespace()) == GatewayLimits()
    settings = SimpleNamespace(
        MATYAN_ACK_HOLD_SECONDS=3.0,
        MATYAN_DRAIN_SECONDS=60.0,
        MATYAN_GATEWAY_LIMITS={"window_frames": 2},
    )
    given = GatewayLimits.from_settings(settings)
    assert (given.hold_s, given.drain_s, given.window_frames) == (3.0, 10.0, 2)


async def test_the_budget_gives_out_in_order() -> None:
    budget = ByteBudget(10)
    assert budget.try_acquire(8)
    order = []

    async def take(size: int) -> None:
        await budget.acquire(size)
        order.append(size)

    tasks = [asyncio.create_task(take(size)) for size in (5, 1, 4)]
    await asyncio.sleep(0)
    # One byte is free, but it is not the turn of the one that wants it.
    assert not budget.try_acquire(1)
    assert order == []
    budget.release(8)
    await asyncio.gather(*tasks)
    assert order == [5, 1, 4]
    assert budget.used == 10


async def test_more_than_the_budget_is_given_alone() -> None:
    budget = ByteBudget(10)
    assert budget.try_acquire(1)
    large = asyncio.create_task(budget.acquire(100))
    await asyncio.sleep(0)
    assert not large.done()
    budget.release(1)
    await large
    assert not budget.try_acquire(1)
    budget.release(100)
    assert budget.used == 0


async def test_waiting_in_vain_takes_nothing() -> None:
    budget = ByteBudget(10)
    assert budget.try_acquire(10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await budget.acquire(5)
    next_one = asyncio.create_task(budget.acquire(5))
    await asyncio.sleep(0)
    given_up = asyncio.create_task(budget.acquire(5))
    await asyncio.sleep(0)
    given_up.cancel()
    budget.release(10)
    await next_one
    assert budget.used == 5
