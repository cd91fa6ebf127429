"""Query parameters as browsers really send them."""

import pytest
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from backend.api.fields import raw_query, read_params, tz_offset_min
from backend.api.serializers.runs import (
    BatchParams,
    InfoParams,
    MetricSearchParams,
    RunSearchParams,
)
from backend.errors import BadRequestError


def read(query_string, declared):
    request = Request(APIRequestFactory().get(f"/?{query_string}"))
    request.META["QUERY_STRING"] = query_string
    return read_params(request, declared)


def test_defaults():
    assert read("", RunSearchParams) == {
        "q": "",
        "limit": 0,
        "offset": "",
        "sort": "",
        "skip_system": True,
        "report_progress": True,
        "exclude_params": False,
        "exclude_traces": False,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[(text, True) for text in ("true", "True", "TRUE", "1")],
        *[(text, False) for text in ("false", "False", "FALSE", "0")],
    ],
)
def test_flags_in_any_case(text, value):
    assert read(f"report_progress={text}", RunSearchParams)["report_progress"] is value


@pytest.mark.parametrize("text", ["", "undefined", "null", "NaN"])
def test_words_for_nothing_are_the_default(text):
    query = f"record_density={text}&record_range={text}"

    assert read(query, BatchParams) == {
        "record_density": 50,
        "record_range": (None, None),
    }


@pytest.mark.parametrize(("text", "value"), [("0", 1), ("-3", 1), ("99999999", 10_000)])
def test_numbers_are_clamped(text, value):
    assert read(f"p={text}", MetricSearchParams)["p"] == value


def test_a_word_for_a_number_is_refused():
    with pytest.raises(exceptions.ValidationError, match="valid integer"):
        read("p=many", MetricSearchParams)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5:10", (5, 10)),
        ("5:", (5, None)),
        (":10", (None, 10)),
        (":", (None, None)),
        ("-5:-1", (-5, -1)),
        (" 1 : 2 ", (1, 2)),
        ("7", (None, None)),
        ("99999999999999999999:", (2**63 - 1, None)),
    ],
)
def test_ranges(text, value):
    assert read(f"record_range={text}", BatchParams)["record_range"] == value


@pytest.mark.parametrize("text", ["a:b", "1.5:2", "1:2:3"])
def test_ranges_of_no_integers_are_refused(text):
    with pytest.raises(BadRequestError, match="record_range"):
        read(f"record_range={text}", BatchParams)


def test_repeated_parameters_are_a_list():
    params = read("sequence=metric&sequence=images&skip_system=1", InfoParams)

    assert params == {"skip_system": True, "sequence": ["metric", "images"]}


KNOWN = frozenset({"q", "p", "limit"})


@pytest.mark.parametrize(
    ("query_string", "query"),
    [
        ("q=a%20%3D%3D%201&p=5", "a == 1"),
        ("p=5&q=a+==+1", "a == 1"),
        ('p=5&q=run.name == "a&b"&limit=3', 'run.name == "a&b"'),
        ('q=run.name == "a&x=1"', 'run.name == "a&x=1"'),
        ("q=50%25 100%", "50% 100%"),
        ("q=%D5%B4", "մ"),
        ("q=", ""),
        ("q=a&", "a"),
        ("limit=4", ""),
    ],
)
def test_unescaped_queries_end_at_the_next_parameter(query_string, query):
    assert raw_query(query_string, KNOWN) == query


@pytest.mark.parametrize(
    ("header", "minutes"),
    [("-180", -180), ("330", 330), ("", 0), ("soon", 0), ("99999", 0)],
)
def test_time_zone_header(header, minutes):
    request = Request(APIRequestFactory().get("/", HTTP_X_TIMEZONE_OFFSET=header))

    assert tz_offset_min(request) == minutes
