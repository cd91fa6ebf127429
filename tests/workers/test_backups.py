"""Backups in an object store: kept whole, pruned, fetched to be restored."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from backend.domain.jobs import JobName
from backend.errors import BlobStoreError
from backend.services.long_work import nobody
from matyan_project import env
from matyan_project.backup_storage import storages
from tests.backend.writing import make_run
from tests.services import s3
from tests.services.requirements import require
from workers.jobs import run_job

pytestmark = pytest.mark.s3

BUCKET = "matyan-backups"
SECOND_US = 1_000_000
BEGUN_US = 1_790_000_000 * SECOND_US


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, required_services: frozenset[str]
) -> Iterator[s3.S3Server]:
    require("s3", s3.missing(), required_services)
    with s3.S3Server(tmp_path_factory.mktemp("s3"), provider="transient") as running:
        with contextlib.closing(running.client()) as client:
            client.create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture
def filled(
    server: s3.S3Server, runtime: Any, settings: Any, data_dir: Any
) -> Iterator[Any]:
    """A store with one run, and an empty bucket for its backups."""
    server.ensure_running()
    settings.DATA_DIR = data_dir
    settings.STORAGES = storages(
        env.read({**server.settings, "MATYAN_BACKUP_STORAGE": "s3"})
    )
    make_run(runtime.get_store(), "kept")
    yield runtime
    server.ensure_running()
    with contextlib.closing(server.client()) as client:
        for name in stored(server):
            client.delete_object(Bucket=BUCKET, Key=name)


def stored(server: s3.S3Server) -> list[str]:
    with contextlib.closing(server.client()) as client:
        listed = client.list_objects_v2(Bucket=BUCKET)
        return [found["Key"] for found in listed.get("Contents", ())]


def back_up(number: int, *, keep: int = 7) -> dict[str, Any]:
    """Make the backup begun at a moment of its own."""
    return run_job(
        JobName.BACK_UP,
        {"directory": "", "keep": keep},
        on_step=nobody,
        checkpoint={"begun_us": BEGUN_US + number * SECOND_US},
    )


def test_a_backup_goes_to_the_storage_and_old_ones_go(filled, server, data_dir):
    names = [back_up(number, keep=2)["stored"] for number in range(3)]
    assert sorted(stored(server)) == names[1:]
    assert list((data_dir / "backups").iterdir()) == []


def test_a_stored_backup_is_restored_by_its_name(
    filled, settings, data_dir, tmp_path, capsys
):
    name = back_up(0)["stored"]
    call_command("restore", "--stored")
    assert name in capsys.readouterr().out
    filled.close()
    settings.MATYAN_STORE = {
        "ENGINE": settings.MATYAN_STORE["ENGINE"],
        "OPTIONS": {"path": str(tmp_path / "empty"), "durable": False},
    }
    call_command("restore", name, "--stored", "--json")
    assert json.loads(capsys.readouterr().out)["runs"] == 1
    store = filled.get_store()
    assert store.engine.read(lambda tr: store.runs.get(tr, "kept")).run_id == "kept"
    assert list((data_dir / "backups").iterdir()) == []


@pytest.mark.parametrize("name", ["matyan-20200101-000000.matyan-backup", "../x", "x"])
def test_a_backup_that_is_not_stored_is_refused(filled, name):
    with pytest.raises(CommandError, match="no such backup"):
        call_command("restore", name, "--stored")


def test_a_storage_that_is_away_keeps_the_file_and_the_next_attempt_stores_it(
    filled, server, data_dir, settings
):
    config = settings.STORAGES["backups"]["OPTIONS"]
    config["client_config"] = config["client_config"].merge(
        type(config["client_config"])(retries={"total_max_attempts": 1})
    )
    before = server.url
    server.kill()
    with pytest.raises(BlobStoreError):
        back_up(0)
    (left,) = (data_dir / "backups").iterdir()
    server.start()
    assert server.url == before
    with contextlib.closing(server.client()) as client:
        client.create_bucket(Bucket=BUCKET)  # it was in memory
    assert back_up(0)["stored"] == left.name
    assert stored(server) == [left.name]
    assert not left.exists()
