from __future__ import annotations

import pytest
import zstandard

from matyan_wire import limits
from matyan_wire.frames import FrameError, content_bytes, decode_frame, encode_frame


@pytest.mark.parametrize("level", [None, 1, 9])
def test_frames_round_trip(level: int | None) -> None:
    batch = b"batch" * 1000
    frame = encode_frame(batch, zstd_level=level)
    assert bytes(decode_frame(frame)) == batch
    assert content_bytes(frame) == len(batch)


def test_golden_bytes() -> None:
    assert encode_frame(b"\x90") == b"\x00\x90"
    assert decode_frame(bytes.fromhex("0128b52ffd2001090000 90")) == b"\x90"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "empty frame"),
        (b"\x02abc", "unknown frame header 2"),
        (b"\x01abc", "damaged zstd frame"),
        (encode_frame(b"a" * 100, zstd_level=1)[:-3], "damaged zstd frame"),
    ],
)
def test_bad_frames_say_why(frame: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        decode_frame(frame)


def test_decompression_is_bounded_before_it_starts() -> None:
    bomb = b"\x01" + zstandard.compress(bytes(limits.MAX_FRAME_BYTES + 1))
    with pytest.raises(FrameError, match="the limit is 67108864"):
        content_bytes(bomb)
    with pytest.raises(FrameError, match="the limit is 67108864"):
        decode_frame(bomb)


def test_undeclared_content_size_is_refused() -> None:
    stream = zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 100)
    with pytest.raises(FrameError, match="does not declare its content size"):
        decode_frame(b"\x01" + stream)
