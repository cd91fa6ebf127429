"""Chunks and tail blocks: round trips, and damage that is found and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backend.domain.series import ObjectPoints, Points
from backend.errors import FormatError
from backend.storage.codecs import chunks, objects, tails
from backend.storage.codecs.frames import MAX_PART_BYTES, FrameKind, encode_frame
from tests.backend.storage.series_model import columns_of, object_columns_of

KEY = b"where it was"
RNG = np.random.default_rng(7)


def noise(count: int) -> Points:
    """Points that nothing compresses: any bits at all."""
    integers = RNG.integers(-(2**63), 2**63 - 1, (4, count))
    return Points(
        np.sort(integers[0]),
        integers[1].view(np.float64),
        integers[2],
        integers[3].view(np.float64),
    )


@pytest.mark.parametrize("count", [1, 2, 11, 2048, chunks.MAX_POINTS])
def test_metric_chunk_round_trip(count: int) -> None:
    points = noise(count)
    value = chunks.encode_chunk(points)
    assert columns_of(chunks.decode_chunk(value, key=KEY)) == columns_of(points)
    assert len(value) <= MAX_PART_BYTES


@pytest.mark.parametrize("count", [1, 300])
def test_object_chunk_round_trip(count: int) -> None:
    payloads = [b"\x00" * 3 + bytes([i % 256]) * (i % 9) for i in range(count)]
    points = ObjectPoints(
        np.arange(count), np.arange(count) ** 2, np.full(count, np.nan), payloads
    )
    read = objects.decode_object_chunk(objects.encode_object_chunk(points), key=KEY)
    assert object_columns_of(read) == object_columns_of(points)


def test_a_series_is_a_slice_of_a_tail_block() -> None:
    block = tails.TailBlock(
        np.array([2, 5, 9]),
        np.array([1, 3, 2]),
        np.arange(6),
        np.arange(6),
        np.full(6, np.nan),
        values=np.arange(6.0),
    )
    read = tails.decode_tail(tails.encode_tail(block), key=KEY)
    assert [read.slice_of(number) for number in (2, 5, 9)] == [
        slice(0, 1),
        slice(1, 4),
        slice(4, 6),
    ]
    assert read.slice_of(3) is None
    assert read.slice_of(10) is None


def metric_chunk() -> tuple[bytes, Callable[[bytes], Any]]:
    return chunks.encode_chunk(noise(50)), lambda v: chunks.decode_chunk(v, key=KEY)


def object_chunk() -> tuple[bytes, Callable[[bytes], Any]]:
    points = ObjectPoints(np.arange(3), np.arange(3), np.zeros(3), [b"a", b"", b"ccc"])
    return objects.encode_object_chunk(points), lambda v: objects.decode_object_chunk(
        v, key=KEY
    )


def tail() -> tuple[bytes, Callable[[bytes], Any]]:
    block = tails.TailBlock(
        np.array([1]),
        np.array([3]),
        np.arange(3),
        np.arange(3),
        np.zeros(3),
        values=np.zeros(3),
    )
    return tails.encode_tail(block), lambda v: tails.decode_tail(v, key=KEY)


@pytest.mark.parametrize("make", [metric_chunk, object_chunk, tail])
@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value[:-1],
        lambda value: value[:8] + b"\xff" + value[9:],
        lambda _: b"",
        lambda _: b"\x63" * 40,
        lambda value: value[:1] + b"\x09" + value[2:],
    ],
)
def test_damage_raises_a_format_error_that_names_the_key(
    make: Callable[[], tuple[bytes, Callable[[bytes], Any]]],
    damage: Callable[[bytes], bytes],
) -> None:
    value, decode = make()
    with pytest.raises(FormatError) as raised:
        decode(damage(value))
    assert raised.value.fields["key"] == KEY.hex()


@pytest.mark.parametrize("make", [metric_chunk, object_chunk, tail])
@pytest.mark.parametrize(
    "change", [lambda body: body[:-3], lambda body: body + b"\x00", lambda _: b"\x00"]
)
def test_a_frame_that_checks_but_makes_no_sense_is_refused(
    make: Callable[[], tuple[bytes, Callable[[bytes], Any]]],
    change: Callable[[bytes], bytes],
) -> None:
    value, decode = make()
    rebuilt = encode_frame(FrameKind(value[0]), change(value[6:]))
    with pytest.raises(FormatError):
        decode(rebuilt)


def test_payloads_must_fit_their_lengths() -> None:
    value = objects.encode_payloads([b"ab", b"c"])
    with pytest.raises(FormatError, match="do not fit"):
        objects.decode_payloads(value, np.array([1, 1]), key=KEY)
    with pytest.raises(FormatError, match="do not fit"):
        objects.decode_payloads(value, np.array([4, -1]), key=KEY)
