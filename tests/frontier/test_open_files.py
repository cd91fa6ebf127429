"""The server takes as many descriptors as its connections may need."""

from __future__ import annotations

import logging
import resource

import pytest

from frontier.server import raise_open_files

UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits as they were set, the present ones last."""
    found = [(1024, 20_000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: found[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, new: found.append(new))
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 20_000), (5000, 20_000)),
        ((256, UNLIMITED), (5000, UNLIMITED)),
        ((1024, 4096), (4096, 4096)),
        ((8192, 20_000), (8192, 20_000)),
        ((4096, 4096), (4096, 4096)),
        ((UNLIMITED, UNLIMITED), (UNLIMITED, UNLIMITED)),
    ],
)
def test_the_limit_is_raised_as_far_as_it_goes_and_never_lowered(
    limits: list[tuple[int, int]], before: tuple[int, int], after: tuple[int, int]
) -> None:
    limits[:] = [before]
    raise_open_files(5000)
    assert limits[-1] == after


def test_a_system_that_refuses_is_lived_with_and_named(
    limits: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(_kind: int, _new: tuple[int, int]) -> None:
        raise ValueError

    monkeypatch.setattr(resource, "setrlimit", refuse)
    with caplog.at_level(logging.WARNING):
        raise_open_files(5000)
    assert caplog.messages == ["gateway.few_open_files"]
