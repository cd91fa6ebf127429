"""Copying: equal to the last key, between any two engines, whatever interrupts it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import (
    FormatError,
    InvalidInputError,
    SourceChangingError,
    TargetNotEmptyError,
)
from backend.services import store_copy
from backend.services.store_copy import CopyProgress, copy_store
from backend.services.store_verify import verify_store
from backend.storage import keyspace
from backend.storage.engine.base import Engine, KeyValue
from backend.storage.engine.embedded import EmbeddedEngine
from backend.storage.engine.faults import FaultInjector
from backend.storage.factory import Store, open_store
from tests.backend.services.store_contents import fill


@pytest.fixture
def full(store: Store) -> Store:
    fill(store)
    return store


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Engine]:
    with contextlib.closing(EmbeddedEngine(tmp_path / "t", durable=False)) as engine:
        yield engine


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_copy, "WRITE_PAIRS", 7)
    monkeypatch.setattr(store_copy, "READ_PAIRS", 40)


def all_pairs(engine: Engine) -> list[KeyValue]:
    return engine.read(lambda tr: tr.get_range(b"", b"\xff"))


def copy(source: Store | Engine, target: Engine, **options: Any) -> CopyProgress:
    engine = source.engine if isinstance(source, Store) else source
    return copy_store(engine, target, source_name="source", **options)


def test_a_copy_holds_the_same_keys_and_values(full: Store, target: Engine) -> None:
    done = copy(full, target)
    assert all_pairs(target) == all_pairs(full.engine)
    assert done.pairs == len(all_pairs(target)) - 1  # the stamp is not counted
    assert done.repaired == 0
    assert verify_store(target, on_problem=pytest.fail).problems == 0


def test_a_copy_can_be_copied_back(store: Store, tmp_path: Path) -> None:
    """To each engine: `store` is the target here, stamped as a server would."""
    source = open_store(
        engine="backend.storage.engine.embedded.EmbeddedEngine",
        options={"path": str(tmp_path / "s"), "durable": False},
    )
    with contextlib.closing(source):
        fill(source)
        copy(source, store.engine)
        assert all_pairs(store.engine) == all_pairs(source.engine)


@pytest.mark.usefixtures("small_portions")
def test_a_stopped_copy_goes_on_where_it_was(full: Store, target: Engine) -> None:
    before: list[int] = []
    while True:

        def stop(progress: CopyProgress, seen: int = len(before)) -> None:
            if progress.pairs > (before[-1] if seen else 0) + 20:
                before.append(progress.pairs)
                raise KeyboardInterrupt

        try:
            done = copy(full, target, resume=bool(before), on_progress=stop)
        except KeyboardInterrupt:
            continue
        break
    assert len(before) >= 3
    assert done.pairs == len(all_pairs(full.engine)) - 1
    assert all_pairs(target) == all_pairs(full.engine)


@pytest.mark.usefixtures("small_portions")
def test_commits_that_fail_change_nothing(full: Store, tmp_path: Path) -> None:
    faults = FaultInjector(conflict=0.2, unknown_applied=0.2, unknown_lost=0.2, seed=3)
    with contextlib.closing(
        EmbeddedEngine(tmp_path / "t", durable=False, faults=faults)
    ) as target:
        done = copy(full, target)
        assert all_pairs(target) == all_pairs(full.engine)
        assert done.pairs == len(all_pairs(target)) - 1


@pytest.mark.usefixtures("small_portions")
def test_what_changes_meanwhile_is_put_right(full: Store, target: Engine) -> None:
    changes = iter(range(1_000))

    def change(progress: CopyProgress) -> None:
        turn = next(changes)
        if progress.compared or turn > 20:
            return

        def write(tr: Any) -> None:
            tr.set(b"\x01early", b"%d" % turn)
            tr.set(b"\xfdlate", b"%d" % turn)
            pairs = tr.get_range(b"\x14", b"\x15", limit=3 + turn)
            tr.clear(pairs[-1][0])

        full.engine.transact(write)

    done = copy(full, target, on_progress=change)
    assert done.repaired > 0
    assert all_pairs(target) == all_pairs(full.engine)


def test_without_comparing_changes_are_not_noticed(full: Store, target: Engine) -> None:
    done = copy(full, target, compare=False)
    assert done.compared == 0
    assert all_pairs(target) == all_pairs(full.engine)


def test_a_source_that_never_rests_is_refused(full: Store, target: Engine) -> None:
    turns = iter(range(1_000))
    write = full.engine.transact

    def change(_: CopyProgress) -> None:
        write(lambda tr: tr.set(b"\x01changing", b"%d" % next(turns)))

    with pytest.raises(SourceChangingError, match="faster than it can be copied"):
        copy(full, target, on_progress=change)
    with pytest.raises(FormatError, match="unfinished copy"):
        store_of(target)
    copy(full, target, resume=True)
    assert all_pairs(target) == all_pairs(full.engine)


def store_of(engine: Engine) -> None:
    from backend.storage.format_version import check_format

    check_format(engine)


def test_an_unfinished_copy_is_no_store(full: Store, target: Engine) -> None:
    def stop(_: CopyProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(full, target, on_progress=stop)
    with pytest.raises(FormatError, match="store copy --resume"):
        store_of(target)
    with pytest.raises(TargetNotEmptyError, match="pass --resume"):
        copy(full, target)
    with pytest.raises(InvalidInputError, match="copy of another source"):
        copy_store(full.engine, target, source_name="other", resume=True)
    with pytest.raises(InvalidInputError, match="not a finished store"):
        copy(target, full.engine)


def test_a_target_with_data_is_refused(full: Store, target: Engine) -> None:
    target.transact(lambda tr: tr.set(b"k", b"v"))
    for resume in (False, True):
        with pytest.raises(TargetNotEmptyError, match="not empty"):
            copy(full, target, resume=resume)
    assert all_pairs(target) == [(b"k", b"v")]


def test_a_finished_copy_is_not_copied_over(full: Store, target: Engine) -> None:
    copy(full, target)
    with pytest.raises(TargetNotEmptyError):
        copy(full, target, resume=True)


def test_a_source_that_is_no_store_is_refused(target: Engine, tmp_path: Path) -> None:
    with (
        contextlib.closing(EmbeddedEngine(tmp_path / "s", durable=False)) as source,
        pytest.raises(InvalidInputError, match="not a finished store"),
    ):
        copy(source, target)


def test_the_largest_values_fit(target: Engine, store: Store) -> None:
    size = store.engine.limits.value_bytes

    def write(tr: Any) -> None:
        for number in range(60):
            tr.set(keyspace.pack_document("c", "d", number), b"v" * size)

    store.engine.transact(write)
    done = copy(store, target)
    assert done.copied_bytes > 60 * size
    assert all_pairs(target) == all_pairs(store.engine)
