"""Terminal lines and log records over HTTP."""

import pytest


@pytest.fixture
def lines(writer):
    writer.run("r1")
    writer.objects("r1", "logs", "logs", [f"line {step}" for step in range(500)])


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_last_lines_come_without_a_range(api, lines, slash):
    found = api.stream(f"runs/r1/logs{slash}?record_range=")

    assert found[0] == (300, "line 300")
    assert found[-1] == (499, "line 499")
    assert [step for step, _ in found] == list(range(300, 500))


@pytest.mark.parametrize(
    ("steps", "first", "last"),
    [
        ("495:", 495, 499),
        ("0:3", 0, 2),
        (":2", 0, 1),
        ("-5:2", 0, 1),
        ("0:9999", 0, 499),
    ],
)
def test_ranges_are_half_open(api, lines, steps, first, last):
    found = api.stream(f"runs/r1/logs?record_range={steps}")

    assert [step for step, _ in found] == list(range(first, last + 1))


@pytest.mark.parametrize("steps", ["500:", "7:7", "9:3"])
def test_ranges_with_nothing_in_them_are_empty(api, lines, steps):
    assert api.stream(f"runs/r1/logs?record_range={steps}") == []


def test_a_range_of_words_is_refused(api, lines):
    assert api.get("runs/r1/logs?record_range=a:b").status_code == 400


def test_unknown_runs_and_runs_without_logs_have_none(api, writer):
    writer.run("r1")

    for run in ("r1", "none"):
        assert api.stream(f"runs/{run}/logs") == []
        assert api.stream(f"runs/{run}/log-records") == [("log_records_count", 0)]


def record(number, level=20, **more):
    return {
        "message": f"m{number}",
        "log_level": level,
        "timestamp": 1_795_420_800.5,
        "args": None,
        "logger_info": ["train.py", 3],
        **more,
    }


def test_records_come_with_their_number(api, writer):
    writer.run("r1")
    records = [
        record(0),
        record(1, level=45, args={"a": {"b": [1]}}),
        record(2, level=5),
    ]
    writer.objects("r1", "log_records", "__log_records", records)

    found = api.stream("runs/r1/log-records/")

    assert found[0] == ("log_records_count", 3)
    assert found[1] == (
        0,
        {
            "message": "m0",
            "log_level": "INFO",
            "timestamp": 1_795_420_800.5,
            "args": None,
            "logger_info": ["train.py", 3],
            "is_notified": True,
        },
    )
    assert found[2][1]["log_level"] == "ERROR"
    assert found[2][1]["args"] == {"a": {"b": [1]}}
    assert found[3][1]["log_level"] == "DEBUG"
    assert api.stream("runs/r1/log-records?record_range=2:")[0] == found[0]
    assert [key for key, _ in api.stream("runs/r1/log-records?record_range=2:")] == [
        "log_records_count",
        2,
    ]


@pytest.mark.parametrize(
    ("level", "told", "shown"),
    [
        (50, "CRITICAL", "ERROR"),
        (99, "CRITICAL", "ERROR"),
        (30, "WARNING", "WARNING"),
        (0, "DEBUG", "DEBUG"),
        ("error", "ERROR", "ERROR"),
        ("critical", "CRITICAL", "ERROR"),
        ("TRACE", "INFO", "INFO"),
        (None, "INFO", "INFO"),
    ],
)
def test_pages_are_told_only_levels_they_know(api, writer, level, told, shown):
    writer.run("r1")
    writer.objects("r1", "log_records", "__log_records", [record(0, level=level)])

    client = api.stream("runs/r1/log-records")
    page = api.stream("runs/r1/log-records", **{"X-Timezone-Offset": "-180"})

    assert client[1][1]["log_level"] == told
    assert page[1][1]["log_level"] == shown


def test_many_records_come_without_a_range(api, writer):
    writer.run("r1")
    records = [record(number) for number in range(700)]
    writer.objects("r1", "log_records", "__log_records", records)

    found = api.stream("runs/r1/log-records")

    assert found[0] == ("log_records_count", 700)
    assert [step for step, _ in found[1:]] == list(range(700))


def test_the_number_is_never_above_the_last_step(api, writer):
    writer.run("r1")
    writer.objects(
        "r1",
        "log_records",
        "__log_records",
        [record(n) for n in range(3)],
        steps=[-2, -1, 0],
    )

    found = api.stream("runs/r1/log-records")

    assert [key for key, _ in found] == ["log_records_count", 0]
    assert found[0][1] == 1
