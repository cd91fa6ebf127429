"""Delivery through servers that fail: nothing accepted is lost, nothing doubled."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from matyan_client import Run, Text
from tests.client.conftest import journals, wait_until
from tests.client.fake_server import Answer, FakeServer


def steps_of(server: FakeServer) -> list[int]:
    return [step for _, _, step, *_ in server.points()]


def exactly_once(server: FakeServer, count: int) -> None:
    assert steps_of(server) == list(range(count))
    assert server.received.changed_repeats == 0


def track(run: Run, start: int, stop: int) -> None:
    for step in range(start, stop):
        run.track(step / 2, "loss", step)


def test_everything_arrives_and_nothing_stays(server, open_run, state_dir):
    run = open_run(server.url)
    track(run, 0, 1000)
    run.close()
    exactly_once(server, 1000)
    assert [point[3] for point in server.points()] == [n / 2 for n in range(1000)]
    kinds = [type(event).__name__ for event in server.events()]
    assert (kinds[0], kinds[-1]) == ("CreateRun", "FinishRun")
    assert journals(state_dir) == []


def test_finish_is_in_no_frame_before_the_last_points(server, open_run):
    run = open_run(server.url)
    track(run, 0, 50_000)
    run.close()
    exactly_once(server, 50_000)
    finishing = [
        bool([e for e in batch.events if type(e).__name__ == "FinishRun"])
        for batch in server.received.batches
    ]
    assert finishing == [False] * (len(finishing) - 1) + [True]


def test_frames_are_few(server, open_run, monkeypatch):
    monkeypatch.setenv("MATYAN_FLUSH_INTERVAL_S", "0.2")
    run = open_run(server.url)
    track(run, 0, 20_000)
    run.close()
    assert server.received.frames <= 12


def test_a_server_absent_at_the_start_stops_nothing(open_run, capsys):
    server = FakeServer()
    started = time.monotonic()
    run = open_run(server.url)
    track(run, 0, 500)
    assert time.monotonic() - started < 2
    assert wait_until(lambda: run.delivery.problem is not None)
    assert run.delivery.acknowledged == 0
    with server:
        assert run.flush(10)
        exactly_once(server, 500)
        run.close()
    said = capsys.readouterr().err
    assert said.count(server.url) == 1
    assert "Training goes on" in said
    assert "make up" in said


def test_a_server_that_dies_and_comes_back_misses_nothing(open_run):
    server = FakeServer().start()
    run = open_run(server.url)
    for round_ in range(3):
        track(run, round_ * 400, round_ * 400 + 200)
        run.flush(5)
        server.stop()
        track(run, round_ * 400 + 200, round_ * 400 + 400)
        time.sleep(0.05)
        server.start()
    assert run.flush(10)
    run.close()
    server.stop()
    exactly_once(server, 1200)


@pytest.mark.parametrize("kept", [True, False], ids=["ack lost", "frame lost"])
def test_a_connection_cut_at_every_frame(kept, open_run):
    def policy(number: int, _batch: object) -> Answer:
        return Answer(keep=kept, hang_up=True) if number % 2 else Answer()

    with FakeServer(policy=policy) as server:
        run = open_run(server.url)
        for start in range(0, 600, 100):
            track(run, start, start + 100)
            time.sleep(0.02)
        run.close(timeout=20)
        exactly_once(server, 600)
        assert bool(server.received.repeats) == kept


def test_an_error_to_retry_is_retried(open_run):
    def policy(number: int, _batch: object) -> Answer:
        busy = Answer(keep=False, error="the event log is down", retry=True)
        return busy if number < 6 else Answer()

    with FakeServer(policy=policy) as server:
        run = open_run(server.url)
        track(run, 0, 300)
        assert run.flush(10)
        exactly_once(server, 300)
        assert run.delivery.dropped == {}


def test_a_refusal_for_good_is_counted_and_named(open_run, capsys):
    def policy(number: int, _batch: object) -> Answer:
        refusal = Answer(keep=False, error="points.steps: wrong")
        return refusal if number == 2 else Answer()

    with FakeServer(policy=policy) as server:
        run = open_run(server.url)
        run.flush(5)
        track(run, 0, 5)
        run.flush(5)
        track(run, 5, 10)
        run.close()
        assert steps_of(server) == [5, 6, 7, 8, 9]
        dropped = run.delivery.dropped
    assert dropped == {"refused by the server: points.steps: wrong": 5}
    said = capsys.readouterr().err
    assert "points.steps: wrong" in said
    assert "5 dropped" in said


def test_a_slow_server_slows_nobody(open_run):
    def policy(_number: int, _batch: object) -> Answer:
        return Answer(delay_s=0.15)

    with FakeServer(policy=policy) as server:
        run = open_run(server.url)
        started = time.monotonic()
        track(run, 0, 20_000)
        assert time.monotonic() - started < 2
        assert run.flush(15)
        exactly_once(server, 20_000)


def test_refusals_at_the_door_are_waited_out(server, open_run):
    server.refuse_status = 503
    run = open_run(server.url)
    track(run, 0, 100)
    assert wait_until(lambda: len(server.received.requests) >= 4)
    server.refuse_status = None
    assert run.flush(10)
    exactly_once(server, 100)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "MATYAN_TOKEN"),
        (403, "scope"),
        (404, "frontier_url="),
        (418, "proxy"),
    ],
)
def test_a_closed_door_is_explained(status, remedy, server, open_run, capsys):
    server.refuse_status = status
    run = open_run(server.url)
    run.track(1.0, "loss")
    assert wait_until(lambda: run.delivery.problem is not None)
    problem = run.delivery.problem
    assert server.url in problem
    assert f"HTTP {status}" in problem
    assert remedy in problem
    assert wait_until(lambda: server.url in capsys.readouterr().err)
    server.refuse_status = None
    assert run.flush(10)
    exactly_once(server, 1)


def test_strict_raises_when_there_is_no_server(monkeypatch, open_run):
    monkeypatch.setenv("MATYAN_STRICT", "1")
    server = FakeServer()
    with pytest.raises(ConnectionError, match=server.url):
        open_run(server.url)
    with server:
        open_run(server.url).track(1.0, "loss")


def test_close_keeps_its_budget_when_the_server_hangs(open_run, state_dir, capsys):
    def policy(_number: int, _batch: object) -> Answer:
        return Answer(keep=False, silent=True)

    with FakeServer(policy=policy) as server:
        run = open_run(server.url)
        track(run, 0, 1000)
        started = time.monotonic()
        run.close(timeout=0.5)
        assert time.monotonic() - started < 2.5
    (left,) = journals(state_dir)
    said = capsys.readouterr().err
    assert str(left) in said
    assert "(1000 points)" in said
    assert "matyan-client sync" in said


def test_close_keeps_its_budget_when_there_is_no_server(open_run, state_dir):
    run = open_run(FakeServer().url)
    track(run, 0, 10)
    started = time.monotonic()
    run.close(timeout=0.5)
    assert time.monotonic() - started < 2.5
    assert len(journals(state_dir)) == 1


def test_what_is_acknowledged_leaves_the_disk(server, open_run, monkeypatch):
    run = open_run(server.url)
    for start in range(0, 150_000, 10_000):
        track(run, start, start + 10_000)
        assert run.flush(10)
    segments = list(Path(run.delivery.journal).glob("points-*"))
    assert len(segments) <= 3
    exactly_once(server, 150_000)


def test_a_full_quota_drops_counts_and_goes_on(open_run, monkeypatch, capsys):
    monkeypatch.setenv("MATYAN_JOURNAL_MAX_BYTES", "2000000")
    server = FakeServer()
    run = open_run(server.url)
    track(run, 0, 40_000)
    delivery = run.delivery
    assert delivery.accepted + delivery.dropped["journal_full"] == 40_000
    assert delivery.accepted >= 32_768
    assert wait_until(lambda: "MATYAN_JOURNAL_MAX_BYTES" in capsys.readouterr().err)
    with server:
        assert run.flush(10)
        run.close()
    assert steps_of(server) == list(range(delivery.accepted))


def test_no_place_for_a_journal_stops_nothing(
    server, open_run, monkeypatch, capsys, tmp_path
):
    file = tmp_path / "a file"
    file.write_text("")
    monkeypatch.setenv("MATYAN_DIR", str(file / "below"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(file))
    run = open_run(server.url)
    track(run, 0, 10)
    run["lr"] = 1
    run.close()
    assert sum(run.delivery.dropped.values()) >= 10
    assert "NOT recorded" in capsys.readouterr().err


def test_durable_is_what_the_store_says(server, open_run):
    run = open_run(server.url)
    track(run, 0, 100)
    assert run.delivery.durable == 0
    assert run.wait_durable(5)
    assert run.delivery.durable == 100
    assert run.delivery.pending == 0


def test_close_waits_until_the_store_has_it(server, open_run):
    run = open_run(server.url)
    track(run, 0, 100)
    server.store_lag = 3
    run.close()
    assert server.store_lag == 0
    assert run.delivery.durable == 100


def test_close_leaves_a_store_that_lags(server, open_run, monkeypatch):
    monkeypatch.setattr("matyan_client.outlet.ASK_STORE_S", 0.05)
    run = open_run(server.url)
    track(run, 0, 100)
    server.store_lag = 1_000_000
    run.close()
    assert server.store_lag < 1_000_000
    assert (run.delivery.acknowledged, run.delivery.durable) == (100, 0)


def test_close_asks_no_more_than_once_where_nobody_tells(open_run):
    with FakeServer(binary=False) as server:
        run = open_run(server.url)
        track(run, 0, 1)
        run.close()
        asked = [path for path in server.received.requests if "/durable" in path]
    assert len(asked) == 1


def test_durable_is_not_assumed(open_run):
    with FakeServer(policy=lambda *_: Answer(keep=False)) as server:
        run = open_run(server.url)
        track(run, 0, 10)
        assert not run.wait_durable(0.3)
        assert run.delivery.acknowledged == 10
        assert run.delivery.durable == 0


def test_a_deleted_run_is_noticed_while_waiting(server, open_run, capsys):
    run = open_run(server.url)
    track(run, 0, 10)
    assert run.wait_durable(5)
    server.deleted_us = 1_700_000_000_000_000
    track(run, 10, 20)
    assert not run.wait_durable(3600)  # at once, or this test would not end
    delivery = run.delivery
    assert (delivery.acknowledged, delivery.durable) == (20, 0)
    assert delivery.dropped == {"run deleted on the server": 21}  # create_run, too
    assert "was deleted on the server at 2023-11-14 22:13:20+00:00" in delivery.problem
    assert not run.wait_durable(3600)
    assert capsys.readouterr().err.count("was deleted on the server") == 1
    server.deleted_us = None  # its tombstone was cleared
    assert run.wait_durable(5)
    assert run.delivery.dropped == {}


def test_a_deleted_run_is_noticed_at_the_end(server, open_run, capsys):
    server.deleted_us = 1_700_000_000_000_000
    run = open_run(server.url)
    track(run, 0, 10)
    run.close()
    said = capsys.readouterr().err
    assert f"run {run.hash} was deleted on the server" in said
    assert "12 dropped: 12 run deleted on the server" in said


def test_a_run_opened_by_the_id_of_a_deleted_one_is_noticed(server, open_run, capsys):
    server.deleted_us = 1_700_000_000_000_000
    run = open_run(server.url, "again")
    track(run, 0, 10)
    assert wait_until(lambda: run.delivery.dropped)
    assert "run again was deleted on the server" in capsys.readouterr().err


def test_a_server_that_does_not_tell_of_deletions_costs_nothing(open_run):
    with FakeServer(policy=lambda *_: Answer(keep=False)) as server:
        run = open_run(server.url, "again")
        track(run, 0, 10)
        run.close()
        assert (run.delivery.problem, run.delivery.dropped) == (None, {})


def test_a_server_without_the_subprotocol_is_spoken_to_in_json(open_run):
    with FakeServer(binary=False) as server:
        run = open_run(server.url)
        run["hparams.lr"] = 0.1
        run.add_tag("t")
        run.name = "a name"
        run.track(float("nan"), "loss", 3, 2, context={"subset": "train"})
        run.log_info("hello", n=1)
        run.close()
        messages = {m["type"]: m for m in server.received.json_messages}
    assert next(iter(messages)) == "create_run"
    assert list(messages)[-1] == "finish_run"
    assert messages["log_hparams"]["value"] == {"hparams": {"lr": 0.1}}
    assert messages["add_tag"]["tag_name"] == "t"
    assert messages["set_run_property"]["name"] == "a name"
    assert messages["log_record"]["extra_args"] == {"n": 1}
    metric = messages["log_metric"]
    assert (metric["name"], metric["step"], metric["epoch"]) == ("loss", 3, 2)
    assert metric["context"] == {"subset": "train"}
    assert metric["value"] != metric["value"]
    assert {m["run_id"] for m in messages.values()} == {run.hash}


def test_what_json_messages_cannot_say_is_counted_and_named(open_run, capsys):
    with FakeServer(binary=False) as server:
        run = open_run(server.url)
        run["a"] = {"b": 1, "c": 2}
        del run["a.b"]
        run.track([Text("a"), Text("b")], "words")
        run.track(Text("c"), "words")
        assert run.flush(5)
        kinds = [message["type"] for message in server.received.json_messages]
        assert kinds == ["create_run", "log_hparams", "log_custom_object"]
        dropped = dict(run.delivery.dropped)
        assert sorted(dropped.values()) == [1, 1]
        assert [reason.split(":")[0] for reason in sorted(dropped)] == [
            "deleted attributes",
            "lists of objects",
        ]
    assert "deleted attributes: this server's protocol" in capsys.readouterr().err
