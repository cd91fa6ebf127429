"""Processes that die in every way: what `track` returned from is delivered once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from matyan_client.cli import main
from matyan_client.journal import directory as directories
from tests.client.conftest import journals, wait_until
from tests.client.fake_server import Answer, FakeServer, free_port

pytestmark = pytest.mark.e2e

SRC = str(Path(__file__).parents[2] / "client" / "src")

TRAIN = """
import os, sys, time
sys.path.insert(0, {src!r})
from matyan_client import Run
run = Run("victim", repo={url!r})
with open({out!r}, "w", buffering=1) as out:
    step = 0
    while True:
        for _ in range(50):
            run.track(step / 2, "loss", step, context={{"subset": "train"}})
            step += 1
        out.write("%d\\n" % step)
"""


def start(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script])


def train(url: str, out: Path) -> subprocess.Popen[bytes]:
    return start(TRAIN.format(src=SRC, url=url, out=str(out)))


def reported(out: Path) -> int:
    """Return how many points the process said `track` had returned from."""
    lines = out.read_text().split("\n") if out.exists() else []
    return int(lines[-2]) if len(lines) > 1 else 0


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def sync(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(main, ["sync", "--json", *arguments])
    assert result.exit_code in {0, 1}, result.output
    return {**json.loads(result.stdout), "exit_code": result.exit_code}


def steps_of(server: FakeServer) -> list[int]:
    return [step for _, _, step, *_ in server.points()]


@pytest.mark.parametrize("delay_s", [0.0, 0.4], ids=["at once", "under way"])
def test_killed_in_the_middle_everything_is_delivered_once(
    delay_s, tmp_path, state_dir
):
    out = tmp_path / "out"
    # Acknowledgements of every third frame are lost, so that the kill finds frames
    # which the server holds and the process does not know of.
    with FakeServer(policy=lambda n, _: Answer(silent=n % 3 == 0)) as server:
        process = train(server.url, out)
        assert wait_until(lambda: reported(out) > 2000, 15)
        time.sleep(delay_s)
        kill(process)
        returned = reported(out)
        server.policy = lambda *_: Answer()
        outcome = sync()
        assert outcome["exit_code"] == 0, outcome
        steps = steps_of(server)
        assert steps == list(range(len(steps)))
        assert len(steps) >= returned
        assert server.received.changed_repeats == 0
        assert [point[3] for point in server.points()] == [n / 2 for n in steps]
    assert journals(state_dir) == []


def test_killed_without_any_server_everything_is_delivered(tmp_path, state_dir):
    out = tmp_path / "out"
    server = FakeServer()
    process = train(server.url, out)
    assert wait_until(lambda: reported(out) > 5000, 15)
    kill(process)
    returned = reported(out)
    assert sync("--wait", "0.2")["exit_code"] == 1
    assert len(journals(state_dir)) == 1
    with server:
        assert sync()["exit_code"] == 0
        steps = steps_of(server)
    assert steps == list(range(len(steps)))
    assert len(steps) >= returned


def test_delivery_killed_at_any_time_goes_on(tmp_path, state_dir, monkeypatch):
    out = tmp_path / "out"
    port = free_port()
    process = train(f"http://127.0.0.1:{port}", out)
    assert wait_until(lambda: reported(out) > 60_000, 20)
    kill(process)

    def policy(number: int, _batch: object) -> Answer:
        return Answer(silent=number % 2 == 0, delay_s=0.02)

    deliver = f"import sys; sys.path.insert(0, {SRC!r})\n"
    deliver += "from matyan_client.cli import main; main(['sync', '--quiet'])"
    with FakeServer(port=port, policy=policy) as server:
        for frames in (1, 3, 5):
            process = start(deliver)
            wait_until(lambda seen=frames: server.received.frames >= seen, 10)
            kill(process)
        server.policy = lambda *_: Answer()
        assert sync()["exit_code"] == 0
        steps = steps_of(server)
        assert steps == list(range(len(steps)))
        assert len(steps) >= 60_000
        assert server.received.repeats > 0
        assert server.received.changed_repeats == 0


ENDINGS = {
    "no close": "pass",
    "let go of": "del run; import gc; gc.collect()",
    "exception": "raise SystemExit(3)",
    "sys.exit": "import sys; sys.exit(0)",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_the_end_of_the_script_closes_the_run(ending, server, state_dir):
    script = (
        f"import sys; sys.path.insert(0, {SRC!r})\n"
        "from matyan_client import Run\n"
        f"run = Run(repo={server.url!r}, capture_terminal_logs=False)\n"
        "for step in range(1000): run.track(1.0, 'loss')\n"
        f"{ending}\n"
    )
    start(script).wait(20)
    assert steps_of(server) == list(range(1000))
    assert type(server.events()[-1]).__name__ == "FinishRun"
    assert journals(state_dir) == []


def test_os_exit_leaves_a_journal_that_the_next_run_delivers(
    server, state_dir, open_run, monkeypatch
):
    script = (
        f"import os, sys; sys.path.insert(0, {SRC!r})\n"
        "from matyan_client import Run\n"
        "run = Run('left', repo='http://127.0.0.1:1', capture_terminal_logs=False)\n"
        "for step in range(100): run.track(1.0, 'loss', step)\n"
        "os._exit(0)\n"
    )
    start(script).wait(20)
    (left,) = journals(state_dir)
    meta = directories.read_meta(left)
    directories.write_meta(
        left, type(meta)(**{**as_dict(meta), "backend_url": server.url})
    )
    monkeypatch.setenv("MATYAN_SYNC_ORPHANS", "1")
    monkeypatch.setattr("matyan_client.delivery.orphans._SWEEP._next_at", 0.0)
    open_run(server.url)
    assert wait_until(lambda: len(server.points()) == 100, 10)
    assert wait_until(lambda: not left.exists())


def as_dict(meta: directories.Meta) -> dict[str, object]:
    return {name: getattr(meta, name) for name in meta.__struct_fields__}


FORK = """
import os, sys, threading
sys.path.insert(0, {src!r})
from matyan_client import Run
run = Run("family", repo={url!r})
for step in range(100): run.track(1.0, "parent", step)
{fork}
for step in range(100, 200): run.track(1.0, "parent", step)
run.close()
"""

OS_FORK = """
pid = os.fork()
if pid == 0:
    for step in range(50): run.track(2.0, "child", step)
    run.track(2.0, "counted"); run.track(2.0, "counted")
    run.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""

MULTIPROCESSING = """
import multiprocessing
def work():
    for step in range(50): run.track(2.0, "child", step)
    run.track(2.0, "counted"); run.track(2.0, "counted")
process = multiprocessing.get_context("fork").Process(target=work)
process.start(); process.join(20)
assert process.exitcode == 0
"""

SILENT_CHILD = """
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize(
    "fork", [OS_FORK, MULTIPROCESSING], ids=["os.fork", "multiprocessing"]
)
def test_a_forked_child_writes_for_itself(fork, server, state_dir):
    process = start(FORK.format(src=SRC, url=server.url, fork=fork))
    assert process.wait(30) == 0
    found: dict[str, list[int]] = {}
    for name, _, step, *_ in server.points():
        found.setdefault(name, []).append(step)
    assert found["parent"] == list(range(200))
    assert found["child"] == list(range(50))
    assert found["counted"] == [-(2**63)] * 2  # the store numbers a child's points
    assert len(server.received.positions) == 2
    finishing = [e for e in server.events() if type(e).__name__ == "FinishRun"]
    assert len(finishing) == 1
    assert journals(state_dir) == []


def test_a_child_that_tracks_nothing_leaves_nothing(server, state_dir):
    process = start(FORK.format(src=SRC, url=server.url, fork=SILENT_CHILD))
    assert process.wait(30) == 0
    assert steps_of(server) == list(range(200))
    assert len(server.received.positions) == 1
    assert journals(state_dir) == []


def test_what_close_had_no_time_for_is_delivered_by_a_process_of_its_own(
    monkeypatch, state_dir, open_run
):
    monkeypatch.setenv("MATYAN_DETACHED_SYNC_S", "15")
    server = FakeServer()
    run = open_run(server.url)
    for step in range(100):
        run.track(1.0, "loss", step)
    run.close(timeout=0.1)
    (left,) = journals(state_dir)
    with server:
        assert wait_until(lambda: len(server.points()) == 100, 15)
        assert wait_until(lambda: not left.exists(), 5)
        kinds = [type(event).__name__ for event in server.events()]
    assert kinds == ["CreateRun", "FinishRun"]


def test_delivery_ends_when_the_journal_is_deleted(state_dir, open_run):
    run = open_run(FakeServer().url)
    run.track(1.0, "loss")
    run.close(timeout=0)
    (left,) = journals(state_dir)
    deliver = f"import sys; sys.path.insert(0, {SRC!r})\n"
    deliver += "from matyan_client.cli import main\n"
    deliver += f"main(['sync', '--quiet', '--wait', '60', '--journal', {str(left)!r}])"
    process = start(deliver)
    assert wait_until(lambda: row_of(left)["owned"], 10)
    directories.remove(left)
    assert process.wait(10) == 1


def row_of(path: Path) -> dict[str, object]:
    result = CliRunner().invoke(main, ["journal", "--json"])
    rows = json.loads(result.stdout)["journals"]
    return next(row for row in rows if row["path"] == str(path))


def test_a_restart_of_the_machine_sends_again_under_a_new_epoch(server, state_dir):
    lost = FakeServer()
    out = state_dir.parent / "out"
    process = train(lost.url, out)
    assert wait_until(lambda: reported(out) > 1000, 15)
    kill(process)
    (left,) = journals(state_dir)
    meta = directories.read_meta(left)
    directories.write_meta(left, type(meta)(**{**as_dict(meta), "boot_id": "another"}))
    assert sync("--backend-url", server.url)["exit_code"] == 0
    assert {epoch for epoch, _ in server.received.positions.values()} == {2}
    steps = steps_of(server)
    assert steps == list(range(len(steps)))


@pytest.mark.parametrize("bit", range(3))
def test_damage_in_the_events_keeps_the_neighbours_and_is_counted(
    bit, server, state_dir
):
    script = (
        f"import os, sys; sys.path.insert(0, {SRC!r})\n"
        "from matyan_client import Run\n"
        "run = Run('left', repo='http://127.0.0.1:1', capture_terminal_logs=False)\n"
        "for n in range(20): run.add_tag('tag %d' % n)\n"
        "run.track(1.0, 'loss')\n"
        "os._exit(0)\n"
    )
    start(script).wait(20)
    (left,) = journals(state_dir)
    file = left / "events-000000000000"
    data = bytearray(file.read_bytes())
    at = data.index(b"tag 7")
    data[at] ^= 1 << bit
    file.write_bytes(bytes(data))
    outcome = sync("--backend-url", server.url)
    (journal,) = outcome["journals"]
    tags = [e.name for e in server.events() if type(e).__name__ == "AddTag"]
    assert tags == [f"tag {n}" for n in range(20) if n != 7]
    assert (journal["damaged"], journal["points"]) == (1, 1)
    assert outcome["exit_code"] == 0


def test_points_of_a_damaged_series_are_counted_the_others_kept(server, state_dir):
    script = (
        f"import os, sys; sys.path.insert(0, {SRC!r})\n"
        "from matyan_client import Run\n"
        "run = Run('left', repo='http://127.0.0.1:1', capture_terminal_logs=False)\n"
        "for n in range(10): run.track({'aaaa': 1, 'bbbb': 2, 'cccc': 3}, step=n)\n"
        "os._exit(0)\n"
    )
    start(script).wait(20)
    (left,) = journals(state_dir)
    file = left / "series-000000000000"
    file.write_bytes(file.read_bytes().replace(b"bbbb", b"bxbb"))
    outcome = sync("--backend-url", server.url)
    (journal,) = outcome["journals"]
    assert {name for name, *_ in server.points()} == {"aaaa", "cccc"}
    assert len(server.points()) == 20
    assert journal["damaged"] == 11  # ten points and the definition


def test_a_journal_of_a_newer_sdk_is_left_alone(server, state_dir):
    path = directories.make_directory(state_dir, run_id="r", writer="w")
    directories.write_meta(
        path,
        directories.Meta(
            format=99, run_id="r", writer="w", backend_url=server.url, created_us=1
        ),
    )
    outcome = sync()
    assert outcome["exit_code"] == 1
    assert "newer" in outcome["journals"][0]["problem"]
    assert path.exists()


def test_journals_in_use_are_listed_and_not_taken(server, open_run, state_dir):
    run = open_run(server.url)
    result = CliRunner().invoke(main, ["journal", "--json"])
    (row,) = json.loads(result.stdout)["journals"]
    assert (row["run"], row["owned"], row["server"]) == (run.hash, True, server.url)
    assert [row["complete"] for row in sync()["journals"]] == [False]
    run.track(1.0, "loss")
    assert run.flush(5)


def test_status_asks_both_services(server):
    server.version["gateway"] = {"same_origin": True, "port": server.port}
    result = CliRunner().invoke(main, ["status", "--json", "--backend-url", server.url])
    rows = json.loads(result.stdout)["services"]
    assert [(row["url"], row["version"]) for row in rows] == [(server.url, "0")] * 2
    assert result.exit_code == 0


@pytest.mark.parametrize("version", [{"name": "another"}, ["another"]])
def test_status_names_a_server_that_is_another(server, version):
    server.version = version
    result = CliRunner().invoke(main, ["status", "--backend-url", server.url])
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert f"{server.url} answers, but is no Matyan API address" in result.stdout


def test_status_names_what_cannot_be_reached():
    url = f"http://127.0.0.1:{free_port()}"
    result = CliRunner().invoke(main, ["status", "--backend-url", url])
    assert result.exit_code == 1
    assert url in result.stdout
    assert "unreachable" in result.stdout


def test_a_wrong_address_is_a_usage_error():
    for command in (["status"], ["sync"]):
        result = CliRunner().invoke(main, [*command, "--backend-url", "nonsense"])
        assert result.exit_code == 2
        assert "http://" in result.output


def test_sync_names_journals_that_others_hold(open_run, state_dir):
    run = open_run("http://127.0.0.1:1")
    (path,) = journals(state_dir)
    result = CliRunner().invoke(main, ["sync", "--wait", "0"])
    assert result.exit_code == 1
    assert f"run {run.hash}: NOT delivered: process {os.getpid()} holds it" in (
        result.stderr
    )
    assert "nothing waits" not in result.stderr
    (held,) = sync("--wait", "0")["journals"]
    assert (held["path"], held["complete"]) == (str(path), False)
    listed = CliRunner().invoke(main, ["journal"])
    assert f"in use by {os.getpid()}" in listed.stdout


def test_sync_refuses_a_path_that_is_no_journal(tmp_path):
    result = CliRunner().invoke(main, ["sync", "--journal", str(tmp_path / "gone")])
    assert result.exit_code == 2
    assert f"there is no journal at {tmp_path / 'gone'}" in result.stderr


def test_sync_says_that_nothing_waits():
    result = CliRunner().invoke(main, ["sync"])
    assert (result.exit_code, result.stderr) == (0, "nothing waits to be delivered\n")
