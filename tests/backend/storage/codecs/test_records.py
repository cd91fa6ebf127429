"""Records: golden bytes, older and newer writers."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from backend.domain.blobs import MAX_ENTRIES, BlobHistory
from backend.domain.entities import Artifact, Experiment, Note, Tag
from backend.domain.runs import Run
from backend.errors import FormatError
from backend.storage.codecs.records import (
    decode_artifact,
    decode_blob_history,
    decode_experiment,
    decode_note,
    decode_run,
    decode_tag,
    decode_tombstone,
    encode_artifact,
    encode_blob_history,
    encode_experiment,
    encode_note,
    encode_run,
    encode_tag,
    encode_tombstone,
)

RUN = Run(
    number=7,
    run_id="id",
    name="name",
    description="about",
    created_us=5,
    finished_us=6,
    active=False,
    archived=True,
    experiment_id="exp",
    tag_ids=("t1", "t2"),
    clock_offset_us=-3,
    resumed_count=2,
)


def test_run_bytes_are_stable() -> None:
    assert encode_run(RUN).hex() == (
        "9c01a26964a46e616d65a561626f75740506c2c3a365787092a27431a27432fd02"
    )


def test_a_clock_offset_of_before_it_was_bounded_counts_as_none() -> None:
    value = encode_run(replace(RUN, clock_offset_us=2**63 + 10**15))
    assert decode_run(value, number=7, key=b"") == replace(RUN, clock_offset_us=0)


def test_upload_bytes_are_stable() -> None:
    history = (
        BlobHistory("a/b").with_grant("00" * 16, session=5).with_claim(3, -2, session=5)
    )
    value = encode_blob_history(history)
    assert value.hex() == (
        "9401a3612f6291930500c410000000000000000000000000000000009194050003fe"
    )
    assert decode_blob_history(value, key=b"") == history


def test_the_record_of_many_uploads_fits_a_value() -> None:
    history = BlobHistory("p" * 1024)
    for number in range(MAX_ENTRIES + 5):
        history = history.with_grant(f"{number:032x}", session=2**62)
        history = history.with_claim(2**30 + number, 2**62, session=2**62)
    assert len(history.grants) == len(history.claims) == MAX_ENTRIES
    assert len(encode_blob_history(history)) < 90_000


def test_records_come_back() -> None:
    experiment = Experiment("e", "name", "about", 5, archived=True)
    tag = Tag("t", "name", "#fff", "about", archived=True, created_us=5)
    note = Note("n", "run", "r", "text", 5, 6)
    artifact = Artifact("a/b", "key", "text/plain", 5)
    assert decode_run(encode_run(RUN), number=7, key=b"") == RUN
    assert (
        decode_experiment(encode_experiment(experiment), experiment_id="e", key=b"")
        == experiment
    )
    assert decode_tag(encode_tag(tag), tag_id="t", key=b"") == tag
    assert decode_note(encode_note(note), owner=("run", "r", "n"), key=b"") == note
    assert decode_artifact(encode_artifact(artifact), key=b"") == artifact
    assert decode_tombstone(encode_tombstone(RUN, deleted_us=9), key=b"") == (9, RUN)


def test_trailing_fields_of_a_newer_writer_are_ignored() -> None:
    fields = msgspec.msgpack.decode(encode_run(RUN))
    value = msgspec.msgpack.encode([*fields, "new", {"x": 1}])
    assert decode_run(value, number=7, key=b"") == RUN


def test_fields_an_older_writer_left_out_have_defaults() -> None:
    value = msgspec.msgpack.encode([1, "id", "name", "about", 5])
    assert decode_run(value, number=7, key=b"") == Run(7, "id", "name", "about", 5)


@pytest.mark.parametrize("value", [b"", b"\x90", msgspec.msgpack.encode([2, "id"])])
def test_what_is_no_record_is_refused(value: bytes) -> None:
    with pytest.raises(FormatError, match="6b"):
        decode_run(value, number=7, key=b"k")


def test_record_of_a_newer_version_is_refused() -> None:
    fields = msgspec.msgpack.decode(encode_run(RUN))
    value = msgspec.msgpack.encode([2, *fields[1:]])
    with pytest.raises(FormatError, match="newer"):
        decode_run(value, number=7, key=b"k")
