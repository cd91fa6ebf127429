"""Columns: lossless to the bit, small where they can be, found out when rotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.storage.codecs import columns
from backend.storage.codecs.columns import ColumnError, decode_columns, encode_column

lengths = st.integers(1, 300)
int64_columns = arrays(np.int64, lengths, elements=st.integers(-(2**63), 2**63 - 1))
# Any 8 bytes are a float64: every NaN payload, every subnormal.
float64_columns = int64_columns.map(lambda bits: bits.view(np.float64))
float32_born = arrays(np.float32, lengths).map(lambda values: values.astype(np.float64))


def round_trip(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    encoded = encode_column(column)
    (decoded,), end = decode_columns(encoded, 0, len(column), [column.dtype.type])
    assert end == len(encoded)
    return decoded


@given(st.one_of(int64_columns, float64_columns, float32_born))
def test_every_bit_comes_back(column: npt.NDArray[Any]) -> None:
    decoded = round_trip(column)
    assert decoded.dtype == column.dtype
    assert decoded.tobytes() == column.tobytes()


@pytest.mark.parametrize(
    ("column", "codec", "size"),
    [
        (np.full(2048, np.nan), columns.CONSTANT, 8),
        (np.arange(10**15, 10**15 + 4096, 2), columns.LINEAR, 16),
        (np.array([2**63 - 2, 2**63 - 1, -(2**63)]), columns.LINEAR, 16),
        (np.array([1.5, 2.5]), columns.RAW, 16),
        (
            np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 500),
            columns.RAW,
            4000,
        ),
    ],
)
def test_each_column_takes_its_codec(
    column: npt.NDArray[Any], codec: int, size: int
) -> None:
    encoded = encode_column(column)
    assert (encoded[0], len(encoded) - columns.HEADER_BYTES) == (codec, size)
    assert round_trip(column).tobytes() == column.tobytes()


def test_float32_born_values_take_less_than_four_bytes() -> None:
    noise = np.random.default_rng(0).normal(size=2048)
    column = (np.exp(-np.arange(2048) / 500) + noise / 100).astype(np.float32)
    assert len(encode_column(column.astype(np.float64))) / 2048 < 4


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:3], "header is cut short"),
        (lambda data: data[:-1], "cut short"),
        (lambda data: b"\x09" + data[1:], "unknown codec"),
        (lambda data: data[:5] + b"\xff" * (len(data) - 5), "does not decompress"),
    ],
)
def test_damage_is_named(damage: Any, reason: str) -> None:
    data = damage(encode_column(np.arange(100) ** 2))
    with pytest.raises(ColumnError, match=reason):
        decode_columns(data, 0, 100, [np.int64])


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_another_count_or_type_is_refused(dtype: type[Any]) -> None:
    data = encode_column(np.arange(100) ** 2)
    with pytest.raises(ColumnError, match="another count or type"):
        decode_columns(data, 0, 99, [dtype])
