"""`manage.py store copy` and `manage.py store verify`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from backend.storage import keyspace
from backend.storage.engine.embedded import EmbeddedEngine
from backend.storage.factory import Store, open_store
from tests.backend.services.store_contents import fill
from tests.services import foundationdb

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[str]:
    """The name of a store with something of everything."""
    path = tmp_path / "source"
    with opened(path) as store:
        fill(store)
    return f"embedded:{path}"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Store]:
    with contextlib.closing(
        open_store(
            engine="backend.storage.engine.embedded.EmbeddedEngine",
            options={"path": str(path), "durable": False},
        )
    ) as store:
        yield store


def run(*words: str) -> None:
    call_command("store", *words)


def test_a_store_is_copied_and_verified(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"embedded:{tmp_path / 'target'}"
    run("copy", "--from", source, "--to", target)
    said = capsys.readouterr()
    assert "keys copied" in said.out
    assert "0 put right" in said.out
    assert said.err == ""  # no progress bar without a terminal
    run("verify", "--store", target)
    assert ", 0 problems." in capsys.readouterr().out


def test_both_answer_in_json(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"embedded:{tmp_path / 'target'}"
    run("copy", "--from", source, "--to", target, "--no-compare", "--json")
    copied = json.loads(capsys.readouterr().out)
    assert copied.keys() == {"keys", "bytes", "put_right"}
    assert copied["keys"] > 50
    run("verify", "--store", target, "--json")
    verified = json.loads(capsys.readouterr().out)
    assert verified["problems"] == 0
    assert verified["rows"]["runs"] == 2


def test_a_target_that_is_not_empty_is_refused(source: str, tmp_path: Path) -> None:
    target = f"embedded:{tmp_path / 'target'}"
    run("copy", "--from", source, "--to", target)
    with pytest.raises(CommandError, match="not empty"):
        run("copy", "--from", source, "--to", target)


def test_damage_is_said_in_words_with_status_one(
    source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(Path(source.removeprefix("embedded:"))) as store:
        store.engine.transact(lambda tr: tr.clear(keyspace.pack_run_id("sealed")))
    for words in ((), ("--json",)):
        with pytest.raises(SystemExit) as caught:
            run("verify", "--store", source, *words)
        assert caught.value.code == 1
    text, answer = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    assert "run 1760000000000000: its id sealed does not lead to it" in text
    listed = json.loads(answer)["listed"]
    assert [item["where"] for item in listed] == ["run 1760000000000000"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verify", "--store", "nothing"), "names no store"),
        (("verify", "--store", "embedded:"), "names no store"),
        (("verify", "--store", "embedded:/nowhere"), "/nowhere does not exist"),
        (("copy", "--from", "embedded:/a", "--to", "embedded:/a"), "is both"),
    ],
)
def test_wrong_use_has_status_two(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(CommandError, match=message) as caught:
        run(*words)
    assert caught.value.returncode == 2


def test_the_configured_store_is_verified_by_default(
    runtime: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(runtime.get_store())
    run("verify")
    assert ", 0 problems." in capsys.readouterr().out


@pytest.mark.fdb
def test_a_store_goes_to_foundationdb_and_back(
    source: str, tmp_path: Path, required_services: frozenset[str], settings: Any
) -> None:
    with foundationdb.clean_cluster(required_services) as options:
        settings.MATYAN_FDB_LIBRARY = options["library"]
        cluster = f"foundationdb:{options['cluster_file']}"
        run("copy", "--from", source, "--to", cluster)
        run("verify", "--store", cluster)
        back = tmp_path / "back"
        run("copy", "--from", cluster, "--to", f"embedded:{back}")
        run("verify", "--store", f"embedded:{back}")
        first = Path(source.removeprefix("embedded:"))
        assert pairs_of(back) == pairs_of(first)


def pairs_of(path: Path) -> list[tuple[bytes, bytes]]:
    with contextlib.closing(EmbeddedEngine(path, durable=False)) as engine:
        return engine.read(lambda tr: tr.get_range(b"", b"\xff"))


@pytest.mark.e2e
def test_a_copy_killed_at_any_moment_is_resumed(source: str, tmp_path: Path) -> None:
    """From processes of its own, killed as a power cut would."""
    with opened(Path(source.removeprefix("embedded:"))) as store:
        for number in range(40):
            store.engine.transact(
                lambda tr, number=number: [
                    tr.set(keyspace.pack_document("c", f"{number}", part), b"x" * 9_000)
                    for part in range(100)
                ]
            )
    target = tmp_path / "target"
    words = ["copy", "--from", source, "--to", f"embedded:{target}", "--resume"]
    command = [sys.executable, "manage.py", "store", *words]
    environ = {
        **os.environ,
        "MATYAN_DATA_DIR": str(tmp_path / "data"),
        "DJANGO_SETTINGS_MODULE": "matyan_project.settings.dev",
        "PYTHONPATH": "client/src",
    }
    kills = 0
    while True:
        # Longer each time, so that the copy ends whatever the machine's speed.
        with subprocess.Popen(command, cwd=ROOT, env=environ) as process:
            try:
                process.wait(0.8 + 0.15 * kills)
                break  # done, or told that the one killed before was done
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
    assert pairs_of(target) == pairs_of(Path(source.removeprefix("embedded:")))
