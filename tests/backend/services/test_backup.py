"""Backups: what was in a store is in one filled from its backup, whatever happened."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import (
    BackupDamagedError,
    FormatError,
    InvalidInputError,
    TargetNotEmptyError,
)
from backend.services import runs
from backend.services.backup import back_up, restore
from backend.services.backup_file import BackupReader
from backend.services.long_work import Step
from backend.services.store_verify import verify_store
from backend.storage import keyspace
from backend.storage.engine.base import Engine
from backend.storage.factory import Store, open_engine, open_store
from backend.storage.keyspace import Subspace
from matyan_wire.batch import SeriesRef
from tests.backend.services.store_contents import fill
from tests.backend.writing import START_US, write

EMBEDDED = "backend.storage.engine.embedded.EmbeddedEngine"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Engine]:
    options = {"path": str(tmp_path / "target"), "durable": False}
    with contextlib.closing(open_engine(engine=EMBEDDED, options=options)) as engine:
        yield engine


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "one"


def pairs_of(engine: Engine) -> dict[bytes, bytes]:
    return dict(engine.read(lambda tr: tr.get_range(b"", b"\xff")))


def without_purged(store: Store) -> dict[bytes, bytes]:
    """Return the pairs a backup keeps: not those of runs that are being purged."""
    runs.purge_pending(store)
    return pairs_of(store.engine)


def stop_at(steps: int) -> Callable[[Step], None]:
    left = steps

    def observe(_step: Step) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise InterruptedError

    return observe


def test_a_restored_store_is_the_same_key_by_key(
    store: Store, target: Engine, file: Path
) -> None:
    fill(store)
    report = back_up(store, file, created_us=START_US)
    assert (report["runs"], report["unsettled"]) == (2, 0)
    assert report["bytes"] == file.stat().st_size
    restored = restore(target, file)
    assert restored["runs"] == 2
    assert pairs_of(target) == without_purged(store)
    problems: list[Any] = []
    verify_store(target, on_problem=problems.append)
    assert problems == []


@pytest.fixture
def tiny_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is a large one, of many frames."""
    monkeypatch.setattr("backend.services.backup.WHOLE_BYTES", 0)
    monkeypatch.setattr("backend.services.backup.FRAME_BYTES", 200)
    monkeypatch.setattr("backend.services.backup.READ_PAIRS", 16)


@pytest.mark.usefixtures("tiny_reads")
def test_large_runs_come_back_whole(store: Store, target: Engine, file: Path) -> None:
    fill(store)
    assert back_up(store, file, created_us=START_US)["unsettled"] == 0
    restore(target, file)
    assert pairs_of(target) == without_purged(store)


@pytest.mark.usefixtures("tiny_reads")
def test_a_large_run_that_changes_while_it_is_read_is_read_again(
    store: Store, target: Engine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        store, "busy", metrics={SeriesRef("metric", f"m{n}"): [1.0] for n in range(9)}
    )
    from backend.services import backup

    real = backup._iter_ranges
    passes = 0

    def disturbed(engine: Engine, ranges: list[keyspace.Range]) -> Iterator[Any]:
        nonlocal passes
        passes += 1
        yield from real(engine, ranges)
        if passes == 1:
            write(store, "busy", metrics={SeriesRef("metric", "new"): [2.0]})

    monkeypatch.setattr(backup, "_iter_ranges", disturbed)
    report = back_up(store, file, created_us=START_US)
    assert report["unsettled"] == 0
    monkeypatch.undo()
    restore(target, file)
    assert pairs_of(target) == pairs_of(store.engine)


def test_a_dry_run_writes_nothing(store: Store, file: Path) -> None:
    fill(store)
    report = back_up(store, file, created_us=START_US, dry_run=True)
    assert report["runs"] == 2
    assert not file.parent.exists()


@pytest.mark.parametrize("torn", [0, 3])
def test_a_backup_that_was_stopped_goes_on(
    store: Store, target: Engine, file: Path, torn: int
) -> None:
    for n in range(6):
        write(store, f"run{n}", metrics={SeriesRef("metric", "loss"): [float(n)]})
    with pytest.raises(InterruptedError):
        back_up(store, file, created_us=START_US, on_step=stop_at(3))
    partial = file.with_name("one.partial")
    assert not file.exists()
    size = partial.stat().st_size
    with partial.open("r+b") as half:
        half.truncate(size - torn)
    report = back_up(store, file, created_us=START_US)
    assert report["runs"] == 6
    assert not partial.exists()
    restore(target, file)
    assert pairs_of(target) == pairs_of(store.engine)


def test_an_existing_backup_is_not_overwritten(store: Store, file: Path) -> None:
    back_up(store, file, created_us=START_US)
    with pytest.raises(InvalidInputError, match="the file exists"):
        back_up(store, file, created_us=START_US)


def test_a_restore_that_was_stopped_begins_again(
    store: Store, target: Engine, file: Path, tmp_path: Path
) -> None:
    fill(store)
    back_up(store, file, created_us=START_US)
    frames = BackupReader(file).check().frames
    with pytest.raises(InterruptedError):
        restore(target, file, on_step=stop_at(frames + 2))
    options = {"path": str(tmp_path / "target"), "durable": False}
    with pytest.raises(FormatError, match="unfinished restore; begin it again"):
        open_store(engine=EMBEDDED, options=options)
    restore(target, file)
    assert pairs_of(target) == without_purged(store)


def test_a_store_that_holds_something_is_not_restored_into(
    store: Store, file: Path
) -> None:
    write(store, "run")
    back_up(store, file, created_us=START_US)
    before = pairs_of(store.engine)
    with pytest.raises(TargetNotEmptyError, match="not empty") as refused:
        restore(store.engine, file)
    assert "--resume" not in str(refused.value)
    assert pairs_of(store.engine) == before


Spoil = Callable[[bytes], bytes]

SPOILT: dict[str, tuple[Spoil, str]] = {
    "another file": (lambda _: b"something else entirely", "not a backup"),
    "empty": (lambda _: b"", "not a backup"),
    "of a newer version": (
        lambda b: b[:8] + b"\x00\x63" + b[10:],
        "newer or unknown version",
    ),
    "header damaged": (lambda b: b[:20] + b"?" + b[21:], "header"),
    "a frame damaged": (lambda b: b[:200] + b"????" + b[204:], "damaged"),
    "cut": (lambda b: b[:-1], "ends too early"),
    "cut at a frame": (lambda b: b[: len(b) // 2], "ends too early"),
    "longer": (lambda b: b + b"x", "frames are missing, or too many"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_file_that_is_not_a_whole_backup_is_refused_at_once(
    store: Store, target: Engine, file: Path, name: str
) -> None:
    write(store, "run", metrics={SeriesRef("metric", "loss"): [1.0] * 200})
    back_up(store, file, created_us=START_US)
    spoil, reason = SPOILT[name]
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(FormatError, match=reason) as refused:
        restore(target, file)
    is_damaged = isinstance(refused.value, BackupDamagedError)
    assert is_damaged == ("newer" not in str(refused.value))
    assert pairs_of(target) == {}


def test_a_file_is_checked_without_a_store(
    store: Store, target: Engine, file: Path
) -> None:
    fill(store)
    back_up(store, file, created_us=START_US)
    assert restore(target, file, dry_run=True)["runs"] == 2
    assert pairs_of(target) == {}


def test_index_rows_are_not_in_the_file(store: Store, file: Path) -> None:
    fill(store)
    back_up(store, file, created_us=START_US)
    spaces = {
        keyspace.tuples.unpack(key)[1]
        for frame in BackupReader(file).frames()
        for key, _ in frame.pairs
    }
    assert Subspace.RUN in spaces
    assert Subspace.INDEX not in spaces
