from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from matyan_client.delivery.frames import Frame, FrameCutter
from matyan_client.journal.ledger import Ledger
from matyan_client.journal.writer import JournalEvent, JournalWriter, ObjectPoint
from matyan_wire.batch import (
    AddTag,
    DeleteAttributes,
    Event,
    SeriesRef,
    SetAttributes,
    decode_payload,
    encode_payload,
)

paths = st.lists(st.sampled_from("ab"), min_size=1, max_size=3)
values = st.sampled_from([1, 2, {}, {"a": 3}, {"a": {"b": 4}}])
assignments = st.builds(
    lambda path, value: SetAttributes([(path, encode_payload(value))]), paths, values
)
deletions = st.builds(lambda path: DeleteAttributes([path]), paths)


def cut_all(path: Path, events: Iterable[JournalEvent]) -> list[Frame]:
    journal = JournalWriter(path, max_bytes=2**40)
    series = journal.define_series(SeriesRef("texts", "said"), counts=True)
    for event in events:
        if isinstance(event, ObjectPoint):
            journal.append_object(series, None, event.epoch, event.payload)
        else:
            journal.append_event(event)
    cutter = FrameCutter(path, run_id="run", writer="writer", ledger=Ledger(path))
    frames = []
    while (frame := cutter.next()) is not None:
        frames.append(frame)
    journal.close()
    return frames


def tree_of(events: Iterable[Event]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for event in events:
        if isinstance(event, SetAttributes):
            for path, payload in event.assignments:
                put(tree, path, decode_payload(payload))
        elif isinstance(event, DeleteAttributes):
            for path in event.paths:
                remove(tree, path)
    return tree


def put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    *above, name = path
    for part in above:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[name] = value


def remove(tree: Any, path: list[str]) -> None:
    *above, name = path
    for part in above:
        tree = tree.get(part) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        tree.pop(name, None)


@given(events=st.lists(assignments | deletions, max_size=12))
def test_joined_assignments_leave_the_attributes_they_would(events, tmp_path_factory):
    frames = cut_all(tmp_path_factory.mktemp("journal"), events)
    sent = [event for frame in frames for event in frame.batch.events]
    assert tree_of(sent) == tree_of(events)


def test_neighbouring_assignments_are_one_event(tmp_path):
    def assigned(key: str, value: int) -> SetAttributes:
        return SetAttributes([([key], encode_payload(value))])

    text = ObjectPoint(1, 0, 0, encode_payload({"data": "x"}), 0.0)
    (frame,) = cut_all(
        tmp_path,
        [
            *(assigned(f"key {number}", number) for number in range(3000)),
            text,  # points come behind the events anyway
            assigned("key 7", -7),
            AddTag("tag"),
            assigned("key 8", -8),
            DeleteAttributes([["key 8"]]),
            assigned("key 8", 8),
        ],
    )
    first, tag, second, deletion, third = frame.batch.events
    expected = {f"key {number}": number for number in range(3000)} | {"key 7": -7}
    assert tree_of([first]) == expected
    assert len(first.assignments) == 3000
    assert tag == AddTag("tag")
    assert [tree_of([second]), tree_of([third])] == [{"key 8": -8}, {"key 8": 8}]
    assert deletion == DeleteAttributes([["key 8"]])
    assert (frame.events, frame.points) == (3005, 1)


def test_the_same_bounds_are_cut_alike(tmp_path):
    events = [SetAttributes([(["k"], encode_payload(n))]) for n in range(5)]
    (frame,) = cut_all(tmp_path, events)
    again = FrameCutter(
        tmp_path, run_id="run", writer="writer", ledger=Ledger(tmp_path)
    )
    assert again.next().batch.events == frame.batch.events
