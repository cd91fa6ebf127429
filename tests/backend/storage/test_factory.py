"""Opening a store: its engine by name, its format checked first."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from backend.errors import FormatError, InvalidInputError
from backend.storage import keyspace
from backend.storage.factory import open_store
from backend.storage.format_version import CURRENT, check_format

EMBEDDED = "backend.storage.engine.embedded.EmbeddedEngine"


def test_an_empty_store_is_stamped_and_opens_again(tmp_path: Path) -> None:
    options = {"path": str(tmp_path / "s"), "durable": False}
    for _ in range(2):
        with contextlib.closing(open_store(engine=EMBEDDED, options=options)) as store:
            stamp = store.engine.read(lambda tr: tr.get(keyspace.pack_format()))
            assert stamp == str(int(CURRENT)).encode()
            assert check_format(store.engine) == CURRENT


@pytest.mark.parametrize("stamp", [b"99", b"nonsense"])
def test_a_store_of_another_format_is_refused(tmp_path: Path, stamp: bytes) -> None:
    options = {"path": str(tmp_path / "s"), "durable": False}
    with contextlib.closing(open_store(engine=EMBEDDED, options=options)) as store:
        store.engine.transact(lambda tr: tr.set(keyspace.pack_format(), stamp))
    with pytest.raises(FormatError, match="newer or unknown version") as raised:
        open_store(engine=EMBEDDED, options=options)
    assert raised.value.fields["found"] == stamp.decode()


@pytest.mark.parametrize(
    "engine", ["", "nothing", "backend.nothing.X", "backend.errors.FormatError"]
)
def test_an_unknown_engine_is_named(engine: str) -> None:
    with pytest.raises(InvalidInputError, match="engine="):
        open_store(engine=engine, options={})
