"""Frames and parts: damage is found and named, no part is over the engine's limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import FormatError
from backend.storage.codecs.frames import (
    MAX_PART_BYTES,
    FrameKind,
    check_frame,
    encode_frame,
    join_parts,
    split_parts,
)

KEY = b"\x01\x02key"


def test_a_frame_opens_where_its_body_begins() -> None:
    frame = encode_frame(FrameKind.PAYLOADS, b"ab", b"c")
    assert frame[check_frame(frame, FrameKind.PAYLOADS, key=KEY) :] == b"abc"


@given(st.binary(max_size=60), st.data())
def test_any_flipped_bit_is_found_and_its_key_named(
    body: bytes, data: st.DataObject
) -> None:
    frame = bytearray(encode_frame(FrameKind.PAYLOADS, body))
    at = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[at // 8] ^= 1 << at % 8
    with pytest.raises(FormatError) as raised:
        check_frame(bytes(frame), FrameKind.PAYLOADS, key=KEY)
    assert raised.value.fields["key"] == KEY.hex()


def test_a_frame_cut_short_is_found() -> None:
    with pytest.raises(FormatError, match="cut short"):
        check_frame(b"\x05\x01", FrameKind.PAYLOADS, key=KEY)


@pytest.mark.parametrize(
    "size", [0, 1, 1900, 1901, 4080, 4081, 5000, 8176, 90_000, 90_001, 400_000]
)
def test_parts_join_again_and_fit(size: int) -> None:
    value = bytes(i % 251 for i in range(size))
    parts = split_parts(value)
    assert join_parts(parts) == value
    assert parts
    assert max(map(len, parts)) <= MAX_PART_BYTES
    assert size == 0 or all(parts)


def test_a_value_just_over_a_page_wastes_no_page() -> None:
    assert [len(part) for part in split_parts(bytes(5000))] == [4080, 920]
    assert [len(part) for part in split_parts(bytes(6500))] == [6500]
