"""Each maintenance command does its job from the command line and reports it."""

from __future__ import annotations

import json

import pytest
from django.core.management import CommandError, call_command

from tests.backend.writing import make_run

QUIET = (
    "compact",
    "expire_tombstones",
    "finish_stale",
    "reindex",
    "store_sizes",
    "sweep_blobs",
    "trim_log",
)


@pytest.fixture
def filled(runtime, settings, data_dir):
    """A store with one run, and everything a command may touch in this directory."""
    settings.DATA_DIR = data_dir
    settings.MATYAN_BLOBS = {
        "ENGINE": settings.MATYAN_BLOBS["ENGINE"],
        "OPTIONS": {**settings.MATYAN_BLOBS["OPTIONS"], "path": str(data_dir / "b")},
    }
    make_run(runtime.get_store(), "kept")
    return runtime


@pytest.mark.django_db
@pytest.mark.parametrize("name", QUIET)
def test_a_job_from_the_command_line_reports_as_json(filled, capsys, name):
    call_command(name, "--json")
    assert isinstance(json.loads(capsys.readouterr().out), dict)
    store = filled.get_store()
    assert store.engine.read(lambda tr: store.runs.get(tr, "kept")).run_id == "kept"


@pytest.mark.parametrize("name", [n for n in QUIET if n != "store_sizes"])
def test_a_dry_run_says_that_nothing_was_changed(filled, capsys, name):
    call_command(name, "--dry-run")
    assert capsys.readouterr().out.endswith("Only counted: nothing was changed.\n")
    call_command(name)
    assert "nothing was changed" not in capsys.readouterr().out


def test_what_is_turned_off_names_its_setting(filled, capsys):
    call_command("sweep_blobs", "--hours=0")
    assert "MATYAN_ORPHAN_BLOB_HOURS" in capsys.readouterr().out


def test_no_backup_is_no_success(filled, settings):
    settings.MATYAN_BACKUP_DIR = ""
    with pytest.raises(CommandError, match="give --directory") as refused:
        call_command("backup")
    assert refused.value.returncode == 2


def test_a_backup_is_restored_into_an_empty_store(filled, settings, tmp_path, capsys):
    directory = tmp_path / "backups"
    call_command("backup", f"--directory={directory}", "--json")
    (file,) = directory.iterdir()
    with pytest.raises(CommandError):
        call_command("restore", str(file))
    filled.close()
    settings.MATYAN_STORE = {
        "ENGINE": settings.MATYAN_STORE["ENGINE"],
        "OPTIONS": {"path": str(tmp_path / "empty"), "durable": False},
    }
    call_command("restore", str(file), "--json")
    store = filled.get_store()
    assert store.engine.read(lambda tr: store.runs.get(tr, "kept")).run_id == "kept"
    assert capsys.readouterr().out


def test_a_file_that_is_no_backup_is_refused(filled, tmp_path):
    file = tmp_path / "no.backup"
    file.write_bytes(b"something else")
    with pytest.raises(CommandError):
        call_command("restore", str(file), "--dry-run")
