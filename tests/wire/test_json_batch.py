from __future__ import annotations

import json
import math
import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan_wire import batch as wire
from matyan_wire import json_frame, json_lax, limits
from matyan_wire.batch_builder import unpack_column
from matyan_wire.json_batch import JsonFrame, decode_json_frame
from matyan_wire.json_frame import FrameSyntaxError

TIME = "2026-11-23T08:47:41.470650+00:00"
TIME_US = 1795423661470650
METRIC = {
    "type": "log_metric",
    "run_id": "other",
    "name": "loss",
    "value": 1.0,
    "step": 0,
    "epoch": 0,
    "context": {"subset": "train"},
    "dtype": "float",
    "client_datetime": TIME,
}


def metric(**fields: Any) -> dict[str, Any]:
    return {**METRIC, **fields}


def decode(*items: Any) -> JsonFrame:
    return decode_json_frame(json.dumps(list(items)).encode(), run_id="run")


def points(frame: JsonFrame) -> list[tuple[Any, ...]]:
    """Return (name, context, step, value, time, epoch) of every metric point."""
    assert frame.batch is not None
    columns = frame.batch.points
    assert columns is not None
    refs = [frame.batch.series[i] for i in unpack_column("I", columns.series)]
    epochs = unpack_column("d", columns.epochs) or [math.nan] * columns.count
    return [
        (ref.name, ref.context, step, value, time, None if math.isnan(e) else e)
        for ref, step, value, time, e in zip(
            refs,
            unpack_column("q", columns.steps),
            unpack_column("d", columns.values),
            unpack_column("q", columns.times_us),
            epochs,
            strict=True,
        )
    ]


def objects(frame: JsonFrame) -> list[tuple[Any, ...]]:
    """Return (kind, name, context, step, payload, time) of every object point."""
    assert frame.batch is not None
    columns = frame.batch.objects
    assert columns is not None
    refs = [frame.batch.series[i] for i in unpack_column("I", columns.series)]
    return [
        (ref.kind, ref.name, ref.context, step, wire.decode_payload(payload), time)
        for ref, step, payload, time in zip(
            refs,
            unpack_column("q", columns.steps),
            columns.payloads,
            unpack_column("q", columns.times_us),
            strict=True,
        )
    ]


def events(frame: JsonFrame) -> list[Any]:
    assert frame.batch is not None
    return frame.batch.events


def test_a_metric() -> None:
    frame = decode(METRIC)
    assert points(frame) == [("loss", '{"subset":"train"}', 0, 1.0, TIME_US, 0.0)]
    assert frame.error() is None
    assert frame.counts == {"log_metric": 1}
    assert frame.batch is not None
    assert frame.batch.run_id == "run"


def test_an_object_frame_is_an_array_of_one() -> None:
    text = json.dumps(METRIC).encode()
    assert decode_json_frame(b" \n" + text, run_id="run").batch == decode(METRIC).batch


@pytest.mark.parametrize("frame", [b"[]", b" [ ] ", b"[\n]"])
def test_an_empty_array_says_nothing(frame: bytes) -> None:
    assert decode_json_frame(frame, run_id="run") == JsonFrame()


def test_null_stands_for_what_is_not_known() -> None:
    frame = decode(
        metric(step=None, epoch=None, context=None, dtype=None, client_datetime=None),
        {"type": "log_metric", "name": "loss", "value": 2},
    )
    unknown = ("loss", "{}", wire.AUTO_STEP)
    assert points(frame) == [
        (*unknown, 1.0, wire.UNKNOWN_TIME, None),
        (*unknown, 2.0, wire.UNKNOWN_TIME, None),
    ]
    assert frame.batch is not None
    assert frame.batch.points is not None
    assert frame.batch.points.epochs == b""


def test_contexts_are_one_however_they_are_written() -> None:
    texts = ['{"a":1,"b":"é"}', '{ "b": "\\u00e9", "a": 1 }']
    items = [
        f'{{"type":"log_metric","name":"m","value":1,"context":{text}}}'
        for text in texts
    ]
    frame = decode_json_frame(f"[{','.join(items)}]".encode(), run_id="run")
    assert frame.batch is not None
    assert [ref.context for ref in frame.batch.series] == ['{"a":1,"b":"é"}']


def test_non_finite_values_are_kept_bit_for_bit() -> None:
    values = [math.nan, math.inf, -math.inf, -0.0, 5e-324]
    frame = decode(*(metric(value=value) for value in values))
    assert frame.error() is None
    assert frame.batch is not None
    assert frame.batch.points is not None
    assert frame.batch.points.values == struct.pack("<5d", *values)


@pytest.mark.parametrize(
    ("fields", "point"),
    [
        ({"value": "2.5"}, {"value": 2.5}),
        ({"value": "NaN"}, {"value": math.nan}),
        ({"value": True}, {"value": 1.0}),
        ({"value": 10**300}, {"value": 1e300}),
        ({"step": "7"}, {"step": 7}),
        ({"step": 7.0}, {"step": 7}),
        ({"step": "7.0"}, {"step": 7}),
        ({"step": -5}, {"step": -5}),
        ({"epoch": 0.25}, {"epoch": 0.25}),
        ({"epoch": "3"}, {"epoch": 3.0}),
        ({"client_datetime": "2026-11-23T08:47:41.470650"}, {}),
        ({"client_datetime": "2026-11-23T08:47:41.470650Z"}, {}),
        ({"client_datetime": "2026-11-23 11:47:41.470650+03:00"}, {}),
        ({"client_datetime": "2026-11-23"}, {"time": 1795392000000000}),
        ({"client_datetime": 1795423661.5}, {"time": 1795423661500000}),
        ({"client_datetime": "1795423661.5"}, {"time": 1795423661500000}),
        ({"client_datetime": 1795423661500}, {"time": 1795423661500000}),
        ({"context": {"x": math.nan}}, {"context": '{"x":"NaN"}'}),
        ({"unknown": [1, {"deep": None}]}, {}),
        ({"name": "\ud800x"}, {"name": "\ufffdx"}),
        ({"context": {"k": "\udc80"}}, {"context": '{"k":"\ufffd"}'}),
    ],
)
def test_what_can_be_converted_is_accepted(
    fields: dict[str, Any], point: dict[str, Any]
) -> None:
    expected = {
        "name": "loss",
        "context": '{"subset":"train"}',
        "step": 0,
        "value": 1.0,
        "time": TIME_US,
        "epoch": 0.0,
        **point,
    }
    frame = decode(metric(**fields))
    assert frame.error() is None
    assert repr(points(frame)) == repr([tuple(expected.values())])


BAD_ITEMS = [
    ("text", "", "expected an object, got a string"),
    (5, "", "expected an object, got a number"),
    (None, "", "expected an object, got null"),
    ([METRIC], "", "expected an object, got an array"),
    ({}, "type", "missing"),
    ({"type": "log_everything"}, "type", "unknown message type 'log_everything'"),
    ({"type": 7}, "type", "unknown message type a number"),
    ({"type": "log_metric", "value": 1}, "name", "missing"),
    (metric(value=None), "value", "must not be null"),
    (metric(value="high"), "value", "expected a number, got 'high'"),
    (metric(value=[1]), "value", "expected a number, got an array"),
    (metric(value=10**400), "value", "int too large to convert to float"),
    (metric(name=""), "name", "must not be empty"),
    (metric(name=3), "name", "expected a string, got a number"),
    (metric(name="é" * 600), "name", "1200 bytes; the limit is 1024"),
    (metric(step=0.5), "step", "expected an integer, got a number"),
    (metric(step=2**63), "step", "outside the range of 64-bit integers"),
    (metric(step=-(2**63)), "step", "outside the range of 64-bit integers"),
    (metric(context=[1]), "context", "expected an object, got an array"),
    (metric(context={"x": "y" * 5000}), "context", "5008 bytes; the limit is 4096"),
    (metric(client_datetime="soon"), "client_datetime", "expected an ISO 8601"),
    (metric(client_datetime=1e300), "client_datetime", "expected an ISO 8601"),
    (metric(client_datetime=True), "client_datetime", "expected a time"),
    (metric(value={"a": 1}), "dtype", "unknown object type 'float'"),
    ({"type": "log_hparams", "value": 3}, "value", "expected an object"),
    ({"type": "create_run", "force_resume": "maybe"}, "force_resume", "a boolean"),
    ({"type": "add_tag", "tag_name": ""}, "tag_name", "must not be empty"),
    ({"type": "add_tag", "tag_name": "x" * 257}, "tag_name", "the limit is 256"),
    ({"type": "set_run_property", "name": "x" * 1025}, "name", "limit is 1024"),
    ({"type": "log_terminal_line", "line": "x"}, "step", "missing"),
    ({"type": "log_record", "message": "m", "level": 1}, "timestamp", "missing"),
    ({"type": "blob_ref", "s3_key": "run/a", "artifact_path": ""}, "artifact_path", ""),
    ({"type": "blob_ref", "s3_key": "other/a", "artifact_path": "a"}, "s3_key", ""),
    (
        {"type": "blob_ref", "s3_key": "run/../a", "artifact_path": "../a"},
        "artifact_path",
        "must not have",
    ),
]


@pytest.mark.parametrize(("item", "field", "reason"), BAD_ITEMS)
def test_a_bad_item_is_named_and_its_neighbours_are_kept(
    item: Any, field: str, reason: str
) -> None:
    frame = decode(metric(step=1), item, metric(step=2))
    assert [step for _, _, step, *_ in points(frame)] == [1, 2]
    assert (frame.items, frame.refused) == (3, 1)
    (bad,) = frame.named
    assert (bad.index, bad.field) == (1, field)
    assert reason in bad.reason
    assert f"1 of 3 items refused: item 1 {field}".rstrip() in str(frame.error())


good_items = st.sampled_from(
    [
        METRIC,
        metric(value="3", step=None),
        metric(value=math.nan),
        {"type": "log_terminal_line", "line": "x", "step": 1},
        {"type": "add_tag", "tag_name": "t"},
        {"type": "log_hparams", "value": {"a": {"b": math.inf}}},
    ]
)
bad_items = st.sampled_from([item for item, _, _ in BAD_ITEMS])


@given(st.lists(st.tuples(st.booleans(), good_items, bad_items), max_size=12))
def test_any_mixture_keeps_exactly_the_valid_items(
    choices: list[tuple[bool, Any, Any]],
) -> None:
    items = [good if is_good else bad for is_good, good, bad in choices]
    frame = decode(*items)
    only_good = decode(*(good for is_good, good, _ in choices if is_good))
    assert frame.batch == only_good.batch or repr(frame.batch) == repr(only_good.batch)
    assert frame.counts == only_good.counts
    assert frame.items == len(items)
    bad_places = [i for i, (is_good, _, _) in enumerate(choices) if not is_good]
    assert [bad.index for bad in frame.named] == bad_places


@pytest.mark.parametrize("bad", ["1", "{}", '"a"', '{"type": "log_metric"}', "[[1]]"])
def test_after_a_thousand_bad_items_no_other_is_studied(
    monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    studied = []
    to_message = json_lax.to_message

    def counted(item: Any) -> Any:
        studied.append(item)
        return to_message(item)

    monkeypatch.setattr(json_lax, "to_message", counted)
    converted = json.dumps(metric(value="1"))
    items = [converted, *[bad] * 5_000, json.dumps(metric(step=7)), converted]
    found = decode_json_frame(f"[{','.join(items)}]".encode(), run_id="run")

    assert len(studied) == 1_001
    assert (found.items, found.refused, len(found.named)) == (5_003, 5_001, 20)
    assert found.counts["log_metric"] == 2


def test_bad_items_beside_nan_are_not_studied_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    studied = []
    to_message = json_lax.to_message
    monkeypatch.setattr(
        json_lax, "to_message", lambda item: to_message(studied.append(item) or item)
    )
    frame = f"[{'[1],' * 5_000}NaN]".encode()

    assert decode_json_frame(frame, run_id="run").refused == 5_001
    assert len(studied) == 1_000


def test_the_error_is_bounded() -> None:
    frame = decode(*({"type": "x" * 10_000} for _ in range(500)), METRIC)
    error = str(frame.error())
    assert error.startswith("500 of 501 items refused: item 0 type: unknown message")
    assert error.endswith("and 480 more")
    assert len(error) < 8_000


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "Expecting value at character 0"),
        (b"nonsense", "Expecting value at character 0"),
        (b"[1,]", "Expecting value at character 3"),
        (b'[{"type":"add_tag","tag_name":"t"}', "expected ',' or ']' at character 34"),
        (b"[] []", "extra data at character 3"),
        (b"{} x", "extra data at character 3"),
        (b"[1,\xff]", "not UTF-8: invalid start byte at byte 3"),
        (b"[" * 3_000_000, "nests too deeply and has no near end"),
    ],
)
def test_what_is_not_json_is_refused_whole(frame: bytes, reason: str) -> None:
    with pytest.raises(FrameSyntaxError, match=reason.replace("[", r"\[")):
        decode_json_frame(frame, run_id="run")


@pytest.mark.parametrize("levels", [70, 600, 100_000])
def test_a_nesting_bomb_is_refused_and_its_neighbours_are_kept(levels: int) -> None:
    bomb = '{"a":' * levels + "1" + "}" * levels
    texts = [
        json.dumps(METRIC),
        f'{{"type":"log_hparams","value":{{"x":1,"y":{bomb}}}}}',
        f'{{"type":"log_metric","name":"m","value":1,"context":{bomb}}}',
        "[" * levels + "]" * levels,
        json.dumps(METRIC),
    ]
    frame = decode_json_frame(f"[{','.join(texts)}]".encode(), run_id="run")
    assert len(points(frame)) == 2
    assert [bad.index for bad in frame.named] == [1, 2, 3]


def test_run_events() -> None:
    frame = decode(
        {"type": "create_run", "client_datetime": TIME, "force_resume": True},
        {"type": "set_run_property", "name": "n", "experiment": "e", "archived": "no"},
        {"type": "set_run_property"},
        {"type": "add_tag", "tag_name": "t"},
        {"type": "remove_tag", "tag_name": "t"},
        {"type": "blob_ref", "s3_key": "run/d/a.txt", "artifact_path": "d/a.txt"},
        {"type": "finish_run", "client_datetime": TIME},
    )
    assert frame.error() is None
    assert events(frame) == [
        wire.CreateRun(TIME_US, force_resume=True),
        wire.SetProperties("n", None, "e", archived=False),
        wire.AddTag("t"),
        wire.RemoveTag("t"),
        wire.BlobRef("d/a.txt", "run/d/a.txt", "application/octet-stream"),
        wire.FinishRun(TIME_US),
    ]


def test_opening_again_takes_back_the_finish() -> None:
    frame = decode({"type": "finish_run"}, {"type": "create_run"})
    assert events(frame) == [wire.CreateRun(wire.UNKNOWN_TIME)]


@pytest.mark.parametrize(
    ("value", "assignments"),
    [
        ({"hparams": {"lr": 1}}, [(["hparams", "lr"], 1)]),
        ({"h": {"a": 1, "b": 2}}, [(["h"], {"a": 1, "b": 2})]),
        ({"x": 1, "y": {"z": 2}}, [(["x"], 1), (["y"], {"z": 2})]),
        ({"x": {"y": {}}}, [(["x", "y"], {})]),
        ({"x": [{"y": 1}]}, [(["x"], [{"y": 1}])]),
        ({"x": 2**70, "y": -(2**63)}, [(["x"], float(2**70)), (["y"], -(2**63))]),
    ],
)
def test_attributes_are_assigned_at_the_path_that_was_meant(
    value: dict[str, Any], assignments: list[Any]
) -> None:
    (event,) = events(decode({"type": "log_hparams", "value": value}))
    assert [
        (path, wire.decode_payload(payload)) for path, payload in event.assignments
    ] == assignments


def test_no_attributes_are_no_event() -> None:
    frame = decode({"type": "log_hparams", "value": {}})
    assert (frame.batch, frame.error()) == (None, None)


@pytest.mark.parametrize("kind", ["image", "audio", "text", "distribution", "figure"])
def test_objects(kind: str) -> None:
    value = {"type": kind, "data": [1, None, {"a": 0.5}]}
    item = {"type": "log_custom_object", "name": "o", "value": value, "step": 3}
    frame = decode(
        {**item, "dtype": kind, "client_datetime": TIME},
        {**item, "dtype": "custom", "context": {"b": 1}},
        {**item, "type": "log_metric", "dtype": f"{kind}s"},
        {**item, "type": "log_metric", "dtype": "float", "value": {**value, "x": "1"}},
    )
    assert frame.error() is None
    unknown = wire.UNKNOWN_TIME
    assert objects(frame) == [
        (f"{kind}s", "o", "{}", 3, value, TIME_US),
        (f"{kind}s", "o", '{"b":1}', 3, value, unknown),
        (f"{kind}s", "o", "{}", 3, value, unknown),
        (f"{kind}s", "o", "{}", 3, {**value, "x": "1"}, unknown),
    ]


def test_terminal_lines_and_log_records() -> None:
    seconds = datetime(2026, 11, 23, tzinfo=UTC).timestamp() + 0.25
    record = {"type": "log_record", "message": "m", "level": 20, "timestamp": seconds}
    frame = decode(
        {"type": "log_terminal_line", "line": "\u2588 50%", "step": 4},
        {**record, "extra_args": {"k": math.nan}, "logger_info": ["a.py", 3]},
        {**record, "level": "30", "timestamp": math.inf},
    )
    assert frame.error() is None
    line, first, second = objects(frame)
    assert line == ("logs", "logs", "{}", 4, "\u2588 50%", wire.UNKNOWN_TIME)
    assert first[:4] == ("log_records", "__log_records", "{}", wire.AUTO_STEP)
    assert repr(first[4]) == repr(
        {
            "message": "m",
            "log_level": 20,
            "timestamp": seconds,
            "args": {"k": math.nan},
            "logger_info": ["a.py", 3],
        }
    )
    assert first[5] == int(seconds * 1_000_000)
    assert second[4]["log_level"] == 30
    assert second[5] == wire.UNKNOWN_TIME


def test_oversize_items_are_named_and_their_neighbours_are_kept() -> None:
    text = "x" * (limits.MAX_OBJECT_BYTES + 1)
    image = {"type": "log_custom_object", "name": "t", "dtype": "text"}
    frame = decode(
        {**image, "value": {"data": text}},
        {"type": "log_terminal_line", "line": text, "step": 0},
        {"type": "log_record", "message": text, "level": 20, "timestamp": 1.0},
        {"type": "log_hparams", "value": {"big": text}},
        {"type": "set_run_property", "description": text},
        METRIC,
    )
    assert len(points(frame)) == 1
    assert [(bad.index, bad.field) for bad in frame.named] == [
        (0, "value"),
        (1, "line"),
        (2, "message"),
        (3, "value"),
        (4, "description"),
    ]


def test_a_frame_of_a_hundred_thousand_series() -> None:
    items = [f'{{"type":"log_metric","name":"m{i}","value":{i}}}' for i in range(10**5)]
    frame = decode_json_frame(f"[{','.join(items)}]".encode(), run_id="run")
    assert frame.error() is None
    assert frame.batch is not None
    assert len(frame.batch.series) == 10**5
    assert frame.batch.points is not None
    assert frame.batch.points.count == 10**5


@given(
    st.lists(
        st.sampled_from(
            [
                METRIC,
                {"type": "add_tag", "tag_name": '}, {"type'},
                {"type": "log_hparams", "value": {"a": [{"b": 1}, {"c": 2}], "d": 1}},
                metric(value=math.nan),
                {"type": "nothing"},
                3,
            ]
        ),
        max_size=40,
    ),
    st.integers(1, 400),
    st.booleans(),
)
def test_large_frames_read_the_same_in_pieces(
    items: list[Any],
    piece_bytes: int,
    compact: bool,  # noqa: FBT001 - from hypothesis
) -> None:
    separators = (",", ":") if compact else (" ,\n ", ": ")
    frame = json.dumps(items, separators=separators).encode()
    whole = decode_json_frame(frame, run_id="run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_frame, "ARRAY_BYTES", piece_bytes)
        pieces = decode_json_frame(frame, run_id="run")
    assert repr(pieces.batch) == repr(whole.batch)  # NaN equals nothing
    assert pieces.named == whole.named
    assert pieces.counts == whole.counts
    assert pieces.items == whole.items
