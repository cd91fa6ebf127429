"""Stored objects as answers show them, whatever writers left out."""

import json
import math

import numpy as np
import pytest

from backend.api.object_trees import Items, object_tree, step_items, takes_all


def tree(kind, payload):
    return object_tree(
        kind, payload, uri_of=lambda fields: f"uri of {fields['s3_key']}"
    )


def weights(value):
    data = value["data"]
    assert (data["type"], data["dtype"]) == ("numpy", "float64")
    assert len(data["blob"]) == 8 * data["shape"]
    return np.frombuffer(data["blob"], "<f8").tolist()


def test_an_image():
    payload = {
        "type": "image",
        "caption": "red",
        "width": 3,
        "height": 2,
        "format": "PNG",
        "s3_key": "r/seq/img/0.png",
    }

    assert tree("images", payload) == {
        "caption": "red",
        "width": 3,
        "height": 2,
        "format": "PNG",
        "blob_uri": "uri of r/seq/img/0.png",
    }


@pytest.mark.parametrize("size", [None, "?", math.nan, math.inf, [1]])
def test_an_unknown_size_is_zero(size):
    payload = {"width": size, "height": size, "s3_key": "r/x"}

    found = tree("images", payload)

    assert (found["width"], found["height"], found["caption"]) == (0, 0, "")


def test_an_audio():
    payload = {"format": "wav", "caption": None, "rate": 22050, "s3_key": "r/x"}

    assert tree("audios", payload) == {
        "caption": "",
        "format": "wav",
        "blob_uri": "uri of r/x",
    }


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"type": "text", "data": "hello"}, "hello"),
        ({"type": "text"}, ""),
        ({"data": 5}, "5"),
        ("bare", "bare"),
        (None, ""),
    ],
)
def test_a_text(payload, text):
    assert tree("texts", payload) == {"data": text}


def test_a_distribution_of_numbers():
    payload = {"bin_count": 3, "range": [-1, 2.5], "data": [1, 2.5, None]}

    found = tree("distributions", payload)

    assert weights(found)[:2] == [1.0, 2.5]
    assert math.isnan(weights(found)[2])
    assert (found["bin_count"], found["range"]) == (3, [-1.0, 2.5])


@pytest.mark.parametrize("dtype", ["float64", "float32", "int32", None])
def test_a_distribution_in_hex(dtype):
    blob = np.array([1, 2, 3], np.dtype(dtype or "float64")).tobytes()
    payload = {"range": [0, 1], "data": blob.hex(), "dtype": dtype}

    assert weights(tree("distributions", payload)) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("data", ["no hex", "abc", "ff", None, 7, {}])
def test_a_distribution_that_cannot_be_read_has_no_bins(data):
    found = tree("distributions", {"data": data, "range": None})

    assert weights(found) == []
    assert (found["bin_count"], found["range"]) == (0, [0.0, 0.0])


def test_a_figure_is_json_text_a_browser_can_parse():
    data = {"data": [{"y": [1.5, math.nan, math.inf]}], "layout": {"title": "é"}}

    found = tree("figures", {"type": "figure", "data": data})

    assert json.loads(found["data"]) == {
        "data": [{"y": [1.5, None, None]}],
        "layout": {"title": "é"},
    }
    assert found["index"] == 0


def test_a_figure_that_is_text_already_stays_it():
    assert tree("figures", {"data": '{"data":[]}'})["data"] == '{"data":[]}'
    assert tree("figures", {})["data"] == "{}"


def test_a_step_is_one_object_or_a_list():
    assert step_items({"a": 1}) == [{"a": 1}]
    assert step_items([{"a": 1}, {"a": 2}]) == [{"a": 1}, {"a": 2}]
    assert step_items([]) == []


@pytest.mark.parametrize(
    ("span", "density", "count", "indices"),
    [
        ((None, None), 0, 3, [0, 1, 2]),
        ((None, None), 5, 6, [0, 1, 2, 3, 4, 5]),
        ((None, None), 5, 7, [0, 2, 3, 4, 6]),
        ((None, None), 2, 9, [0, 8]),
        ((None, None), 1, 9, [0]),
        ((2, None), 5, 5, [2, 3, 4]),
        ((None, 2), 5, 5, [0, 1]),
        ((3, 100), 2, 10, [3, 9]),
        ((-4, 2), 5, 5, [0, 1]),
        ((7, None), 5, 5, []),
        ((4, 2), 5, 5, []),
        ((None, None), 5, 0, []),
    ],
)
def test_items_keep_the_ends(span, density, count, indices):
    assert list(Items(span, density).pick(count)) == indices


def test_one_less_than_there_are_means_all():
    assert takes_all(0, 100)
    assert takes_all(5, 6)
    assert not takes_all(5, 7)
