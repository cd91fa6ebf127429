"""Verifying: a sound store has no problem, and every kind of damage is named."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import pytest

from backend.services import store_verify, store_walk
from backend.services.store_verify import verify_store
from backend.services.store_walk import Problem
from backend.services.store_words import describe_key
from backend.storage import indexes, keyspace
from backend.storage.codecs.chunks import decode_chunk, encode_chunk
from backend.storage.codecs.frames import join_parts
from backend.storage.codecs.run_states import RunState
from backend.storage.codecs.series_records import SeriesRecord, encode_series_record
from backend.storage.codecs.summaries import SUMMARY
from backend.storage.engine.base import Transaction
from backend.storage.factory import Store
from backend.storage.keyspace import Subspace
from backend.storage.repositories.run_state import get_run_state, put_run_state
from backend.storage.repositories.series_dictionary import read_records
from tests.backend.services.store_contents import fill


def problems_of(store: Store) -> list[Problem]:
    found: list[Problem] = []
    report = verify_store(store.engine, on_problem=found.append)
    assert report.problems == len(found)
    return found


@pytest.fixture
def full(store: Store) -> Store:
    fill(store)
    return store


def test_an_empty_store_is_sound(store: Store) -> None:
    assert problems_of(store) == []


def test_a_store_with_everything_is_sound(full: Store) -> None:
    assert problems_of(full) == []


def test_small_windows_see_the_same(
    full: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values in parts, runs and series are whole in a window, whatever its size."""
    read = store_walk._read

    def narrow(tr, walk, begin, end):
        return read(tr, dataclasses.replace(walk, rows=2), begin, end)

    monkeypatch.setattr(store_walk, "_read", narrow)
    assert problems_of(full) == []


def test_everything_is_counted(full: Store) -> None:
    seen: dict[str, int] = {}
    report = verify_store(
        full.engine, on_problem=pytest.fail, on_progress=seen.__setitem__
    )
    assert report.rows == seen
    assert report.rows["runs"] == report.rows["run ids"] == 2
    assert all(report.rows.values()), report.rows


def test_a_verified_store_may_change_meanwhile(full: Store) -> None:
    """Each window is of one version: what is written between them is no problem."""
    found: list[Problem] = []
    number = full.engine.read(lambda tr: full.runs.get(tr, "open")).number

    def seal(_name: str, _rows: int) -> None:
        full.series.seal(full.engine, number)

    verify_store(full.engine, on_problem=found.append, on_progress=seal)
    assert found == []


# Damage


class Hand:
    """Breaks things inside one transaction."""

    def __init__(self, store: Store, tr: Transaction) -> None:
        self.store = store
        self.tr = tr

    def number(self, run_id: str = "sealed") -> int:
        return self.store.runs.get(self.tr, run_id).number

    def key(self, subspace: Subspace, index: int = 0) -> bytes:
        rows = self.tr.get_range(*keyspace.subspace_range(subspace))
        return rows[index][0]

    def clear(self, subspace: Subspace, index: int = 0) -> None:
        self.tr.clear(self.key(subspace, index))

    def flip(self, subspace: Subspace, index: int = 0) -> None:
        """Change the last byte of a value."""
        key = self.key(subspace, index)
        value = self.tr.get(key) or b"\x00"
        self.tr.set(key, value[:-1] + bytes([value[-1] ^ 0xFF]))

    def spoil(self, subspace: Subspace, index: int = 0) -> None:
        self.tr.set(self.key(subspace, index), b"\xc1")

    def copy_to_nobody(self, subspace: Subspace, key: bytes) -> None:
        self.tr.set(key, self.tr.get(self.key(subspace)) or b"")

    def change_state(self, change: Callable[[RunState], object]) -> None:
        number = self.number("open")
        state = get_run_state(self.tr, number)
        change(state)
        put_run_state(self.tr, number, state)

    def index(self, index: indexes.Index, run_id: str, values: tuple = ()) -> bytes:
        return keyspace.pack_index(index, values, self.number(run_id))

    def rewrite_chunk(self, change: Callable[..., object]) -> None:
        """Decode the first chunk of "loss", change it, store it with a right CRC."""
        number = self.number()
        series = next(
            item.number
            for item in self.store.series.list(self.tr, number)
            if item.name == "loss"
        )
        begin, end = keyspace.chunk_range(Subspace.CHUNK, number, series)
        key = self.tr.get_range(begin, end, limit=1)[0][0]
        rows = self.tr.get_range(key[:-1], key[:-1] + b"\xff")
        points = decode_chunk(join_parts([value for _, value in rows]), key=key)
        columns = {
            name: getattr(points, name).copy()
            for name in ("steps", "values", "times_us", "epochs")
        }
        change(columns)
        self.tr.clear_range(key[:-1], key[:-1] + b"\xff")
        self.tr.set(key, encode_chunk(type(points)(**columns)))

    def change_summary(self, field: str) -> None:
        key = self.key(Subspace.CHUNK_SUMMARY)
        row = np.frombuffer(self.tr.get(key) or b"", SUMMARY).copy()
        row[field] += 1
        self.tr.set(key, row.tobytes())

    def change_record(self, change: Callable[[SeriesRecord], object]) -> None:
        number = self.number()
        (record,) = read_records(self.tr, number, [0])
        assert record is not None
        change(record)
        self.tr.set(keyspace.pack_series(number, 0), encode_series_record(record))


NOBODY = 12345
DAMAGE: dict[str, tuple[Callable[[Hand], object], str]] = {
    "stamp gone": (lambda h: h.tr.clear(keyspace.pack_format()), "format stamp"),
    "stamp unknown": (
        lambda h: h.tr.set(keyspace.pack_format(), b"99"),
        "unknown format b'99'",
    ),
    "unfinished copy": (
        lambda h: h.tr.set(keyspace.pack_copy(), b""),
        "unfinished copy",
    ),
    "stray key": (lambda h: h.tr.set(b"\x01stray", b""), "no subspace"),
    "run record unreadable": (lambda h: h.spoil(Subspace.RUN), "^run "),
    "run record gone": (
        lambda h: h.tr.clear(keyspace.pack_run(h.number())),
        "run id sealed: names a run that does not exist",
    ),
    "run id gone": (
        lambda h: h.tr.clear(keyspace.pack_run_id("sealed")),
        "its id sealed does not lead to it",
    ),
    "run id misleads": (
        lambda h: h.tr.set(
            keyspace.pack_run_id("sealed"), h.number("open").to_bytes(8, "big")
        ),
        "run id sealed: leads to a run of another id",
    ),
    "run id unreadable": (
        lambda h: h.tr.set(keyspace.pack_run_id("sealed"), b"1"),
        "run id sealed: cannot be read",
    ),
    "tombstone of a living run": (
        lambda h: h.copy_to_nobody(
            Subspace.TOMBSTONE, keyspace.pack_tombstone("sealed")
        ),
        "its id sealed has a tombstone",
    ),
    "tombstone unreadable": (lambda h: h.spoil(Subspace.TOMBSTONE), "^tombstone of"),
    "purge of a living run": (
        lambda h: h.tr.set(h.index(indexes.Index.PURGE, "open"), b""),
        "is marked for purging",
    ),
    "index row gone": (
        lambda h: h.tr.clear(h.index(indexes.Index.ACTIVE, "open", (1,))),
        "is not in the index ACTIVE under 1",
    ),
    "index row too many": (
        lambda h: h.tr.set(h.index(indexes.Index.ARCHIVED, "open", (1,)), b""),
        "index row ARCHIVED 1, run .*the run is not",
    ),
    "index row of no run": (
        lambda h: h.tr.set(keyspace.pack_index(indexes.Index.TAG, ("x",), NOBODY), b""),
        "index row TAG x, run 12345: names a run that does not exist",
    ),
    "index unknown": (
        lambda h: h.tr.set(keyspace.pack_index(99, (), NOBODY), b""),
        "unknown index",
    ),
    "name index gone": (
        lambda h: h.tr.clear_range(*keyspace.index_range(indexes.Index.SERIES_NAME)),
        "its run is not in the index SERIES_NAME",
    ),
    "name index half": (
        lambda h: h.tr.clear_range(*keyspace.index_range(indexes.Index.RUN_SERIES)),
        "its row RUN_SERIES is missing",
    ),
    "tag gone": (lambda h: h.tr.clear_range(*tags()), "^run .*tag .* is missing"),
    "experiment gone": (
        lambda h: h.tr.clear_range(*keyspace.subspace_range(Subspace.EXPERIMENT)),
        "^run .*experiment .* is missing",
    ),
    "experiment unreadable": (lambda h: h.spoil(Subspace.EXPERIMENT), "^experiment"),
    "experiment name gone": (
        lambda h: h.clear(Subspace.EXPERIMENT_NAME),
        "^experiment .*does not lead to it",
    ),
    "name of nothing": (
        lambda h: h.tr.clear_range(*tags()),
        "tag name hash .*leads to nothing",
    ),
    "name of another": (
        lambda h: h.copy_to_nobody(
            Subspace.TAG_NAME, keyspace.pack_tag_name("somebody else's")
        ),
        "leads to a record of another name",
    ),
    "note unreadable": (lambda h: h.spoil(Subspace.NOTE), "^note on"),
    "note of nobody": (
        lambda h: h.copy_to_nobody(
            Subspace.NOTE, keyspace.pack_note("run", "gone", "n")
        ),
        "note on run, id gone, note n: is on a missing run",
    ),
    "artifact misplaced": (
        lambda h: h.copy_to_nobody(
            Subspace.ARTIFACT, keyspace.pack_artifact(h.number(), "other")
        ),
        "stands under another path",
    ),
    "artifact of nobody": (
        lambda h: h.copy_to_nobody(
            Subspace.ARTIFACT, keyspace.pack_artifact(NOBODY, "model.pt")
        ),
        "artifact of run 12345, .*run that does not exist",
    ),
    "uploads unreadable": (lambda h: h.spoil(Subspace.BLOB), "^uploads of run"),
    "uploads misplaced": (
        lambda h: h.copy_to_nobody(
            Subspace.BLOB, keyspace.pack_blob(h.number(), bytes(16))
        ),
        "stand under another path",
    ),
    "uploads of nobody": (
        lambda h: h.copy_to_nobody(
            Subspace.BLOB, keyspace.pack_blob(NOBODY, bytes(16))
        ),
        "uploads of run 12345, .*run that does not exist",
    ),
    "writer unreadable": (lambda h: h.spoil(Subspace.WRITER), "^writer of run"),
    "attributes damaged": (lambda h: h.flip(Subspace.ATTRIBUTES), "^attributes of run"),
    "attribute part gone": (
        lambda h: h.clear(Subspace.ATTRIBUTES),
        "a part of it is missing",
    ),
    "attributes of nobody": (
        lambda h: h.copy_to_nobody(
            Subspace.ATTRIBUTES, keyspace.pack_attributes(NOBODY, 0)
        ),
        "attributes of run 12345, part 0: belongs to a run that does not exist",
    ),
    "document damaged": (lambda h: h.flip(Subspace.DOCUMENT), "^document in reports"),
    "event unreadable": (lambda h: h.spoil(Subspace.OUTBOX), "^control event"),
    "reaction unreadable": (
        lambda h: h.spoil(Subspace.REACTION),
        "^event to be acted on",
    ),
    "seal unreadable": (lambda h: h.spoil(Subspace.SEALING), "^seal of run"),
    "seal too far": (
        lambda h: h.tr.set(keyspace.pack_sealing(h.number()), keyspace.pack_int(99)),
        "goes up to block 99 of",
    ),
    "state unreadable": (lambda h: h.spoil(Subspace.RUN_STATE), "^state of run"),
    "state gone": (
        lambda h: h.tr.clear(keyspace.pack_run_state(h.number("open"))),
        "state of run .* is missing",
    ),
    "state forgets a block": (
        lambda h: h.change_state(lambda s: setattr(s, "next_tail", s.next_tail - 1)),
        "lies outside the run's tail",
    ),
    "state expects a block": (
        lambda h: h.change_state(lambda s: setattr(s, "next_tail", s.next_tail + 1)),
        "tail block 3 is missing",
    ),
    "state miscounts": (
        lambda h: h.change_state(lambda s: setattr(s, "tail_points", 7)),
        "says that the tail has 7 points; it has 1810",
    ),
    "state reuses numbers": (
        lambda h: h.change_state(lambda s: setattr(s, "next_series", 1)),
        "not yet given out",
    ),
    "series record damaged": (lambda h: h.spoil(Subspace.SERIES), "^record of run"),
    "series record gone": (
        lambda h: h.tr.clear_range(*keyspace.subspace_range(Subspace.SERIES)),
        "series hash of run .*leads to series 0, which does not exist",
    ),
    "tail without its series": (
        lambda h: h.tr.clear_range(*keyspace.subspace_range(Subspace.SERIES)),
        "holds points of series 0, which has no record",
    ),
    "chunk without its series": (
        lambda h: h.tr.clear_range(*keyspace.subspace_range(Subspace.SERIES)),
        r"chunk of run .*without a \(readable\) record",
    ),
    "series hash gone": (
        lambda h: h.clear(Subspace.SERIES_ID),
        "its hash does not lead to it",
    ),
    "series hash misleads": (
        lambda h: h.tr.set(h.key(Subspace.SERIES_ID), keyspace.pack_int(1)),
        "which has another name",
    ),
    "project name gone": (
        lambda h: h.clear(Subspace.SERIES_NAME),
        "missing among the project's series names",
    ),
    "project name misplaced": (
        lambda h: h.copy_to_nobody(
            Subspace.SERIES_NAME, keyspace.pack_series_name(bytes(16))
        ),
        "stands under another name",
    ),
    "tail block damaged": (lambda h: h.flip(Subspace.TAIL), "tail of run .*checksum"),
    "tail block gone": (
        lambda h: h.clear(Subspace.TAIL, 1),
        "missing from the run's tail",
    ),
    "tail of nobody": (
        lambda h: h.copy_to_nobody(Subspace.TAIL, keyspace.pack_tail(NOBODY, 0, 0)),
        "tail of run 12345, block 0, part 0: belongs to a run",
    ),
    "payloads damaged": (
        lambda h: h.flip(Subspace.TAIL_PAYLOAD),
        "tail payloads of run .*checksum",
    ),
    "payloads gone": (
        lambda h: h.clear(Subspace.TAIL_PAYLOAD),
        "its payloads are missing",
    ),
    "payloads without block": (
        lambda h: h.copy_to_nobody(
            Subspace.TAIL_PAYLOAD, keyspace.pack_tail_payload(h.number("open"), 9, 0)
        ),
        "their block is missing",
    ),
    "chunk damaged": (lambda h: h.flip(Subspace.CHUNK), "chunk of run .*checksum"),
    "chunk gone": (
        lambda h: h.tr.clear_range(*keyspace.subspace_range(Subspace.CHUNK)),
        "its chunk is missing",
    ),
    "chunk of nobody": (
        lambda h: h.copy_to_nobody(
            Subspace.CHUNK, keyspace.pack_chunk(NOBODY, 0, 0, 0)
        ),
        "chunk of run 12345, .*run that does not exist",
    ),
    "chunk misplaced": (
        lambda h: h.rewrite_chunk(lambda c: c["steps"].__isub__(1)),
        "does not begin with the step of its key",
    ),
    "chunk out of order": (
        lambda h: h.rewrite_chunk(lambda c: c["steps"].__setitem__(2, 1)),
        "its steps do not ascend",
    ),
    "chunk overlaps": (
        lambda h: h.rewrite_chunk(lambda c: c["steps"].__setitem__(-1, 4999)),
        "reaches into the next chunk",
    ),
    "chunk's value changed": (
        lambda h: h.rewrite_chunk(lambda c: c["values"].__setitem__(0, -1.0)),
        r"chunk summary of run .*no summary of its chunk: first 0.0 \(it is -1.0\)",
    ),
    "chunk of another kind": (
        lambda h: h.change_record(lambda r: setattr(r, "kind", "texts")),
        "does not hold what a series of texts holds",
    ),
    "summary gone": (lambda h: h.clear(Subspace.CHUNK_SUMMARY), "summary is missing"),
    "summary cut short": (
        lambda h: h.spoil(Subspace.CHUNK_SUMMARY),
        "chunk summary of run .*another size",
    ),
    "summary's count wrong": (
        lambda h: h.change_summary("count"),
        "no summary of its chunk: count",
    ),
    "summary's sum wrong": (
        lambda h: h.change_summary("sum"),
        "no summary of its chunk: sum",
    ),
    "record's summary wrong": (
        lambda h: h.change_record(lambda r: setattr(r, "summary", raised(r))),
        "record of run .*no summary of all its chunks: max_step",
    ),
    "record without chunks": (
        lambda h: (
            h.tr.clear_range(*keyspace.subspace_range(Subspace.CHUNK)),
            h.tr.clear_range(*keyspace.subspace_range(Subspace.CHUNK_SUMMARY)),
        ),
        "has a summary of chunks that do not exist",
    ),
    "record sealed too far": (
        lambda h: h.change_record(lambda r: setattr(r, "sealed_upto", 99)),
        "more is sealed than the run has stored",
    ),
}


def raised(record: SeriesRecord) -> bytes:
    row = record.row().copy()
    row["max_step"] += 1
    return row.tobytes()


def tags() -> keyspace.Range:
    return keyspace.subspace_range(Subspace.TAG)


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(full: Store, name: str) -> None:
    damage, words = DAMAGE[name]
    full.engine.transact(lambda tr: damage(Hand(full, tr)))
    lines = [f"{problem.where}: {problem.reason}" for problem in problems_of(full)]
    matching = [line for line in lines if re.search(words, line)]
    assert matching, lines


def test_every_subspace_is_verified() -> None:
    looked_at = {walk.subspace for walk in store_verify.WALKS}
    otherwise = {Subspace.FORMAT, Subspace.COPY, Subspace.CHUNK}
    assert looked_at | otherwise == set(Subspace) - {Subspace.PROJECT_PARAMS}


def test_every_kind_of_key_has_words() -> None:
    described = describe_key(keyspace.pack_chunk(17, 3, 0, 1))
    assert described == "chunk of run 17, series 3, first step 0, part 1"
    assert describe_key(b"\xfe") == "key fe, which is none of a store's"
    for space in Subspace:
        begin, _ = keyspace.subspace_range(space)
        words = describe_key(begin[:-1] + keyspace.pack_int(5) * 2)
        assert "none of" not in words
