"""Runs deleted on the server while, or before, training writes to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from matyan_client import Repo, Run
from matyan_project.local_server import LocalServer

REASON = "run deleted on the server"


@pytest.fixture(autouse=True)
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATYAN_DIR", str(tmp_path / "journals"))
    monkeypatch.setenv("MATYAN_DETACHED_SYNC_S", "0")


def open_run(server: LocalServer, run_id: str) -> Run:
    return Run(run_id, repo=server.url, capture_terminal_logs=False)


def delete_run(server: LocalServer, run_id: str) -> None:
    with Repo(server.url) as repo:
        assert repo.delete_run(run_id)


def test_a_deleted_runs_id_cannot_be_used_again_unnoticed(
    shared_server: LocalServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(shared_server, "reused") as run:
        run.track(1.0, name="loss")
        assert run.wait_durable(60)
        assert run.delivery.durable == 1
    delete_run(shared_server, "reused")

    again = open_run(shared_server, "reused")
    again.track(2.0, name="loss")
    assert not again.wait_durable(3600)  # at once, or this test would not end
    assert again.delivery.acknowledged == 1
    assert again.delivery.durable == 0
    assert again.delivery.dropped == {REASON: 2}  # the point and create_run
    again.close()
    said = capsys.readouterr().err
    assert said.count("run reused was deleted on the server at 20") == 1
    assert "run reused: 3 dropped: 3 run deleted on the server" in said


def test_a_run_deleted_while_it_is_written_to_is_noticed_at_its_end(
    shared_server: LocalServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(repo=shared_server.url, capture_terminal_logs=False)
    run.track(1.0, name="loss")
    assert run.wait_durable(60)
    delete_run(shared_server, run.hash)
    run.track(2.0, name="loss")
    run.close()
    assert run.delivery.dropped == {REASON: 4}
    assert f"run {run.hash} was deleted on the server" in capsys.readouterr().err
