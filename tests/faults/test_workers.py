"""Workers that die, hang, come and go: exactly the accepted points are kept."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.e2e.journal import assert_exact
from tests.faults.deployment import (
    Deployment,
    make_journals,
    publish,
    wait_for,
)

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.timeout(150)]

OUTAGE_S = 60.0
"""Of the store: longer than a transaction, a session and a poll interval may last."""


def test_a_worker_killed_between_store_and_offsets(deployed: Deployment):
    journals = make_journals(4)
    writing = deployed.writing(journals, pause_s=0.005)
    for _ in range(4):
        doomed = deployed.worker(die_after=2)
        assert doomed.process.wait(60) == -signal.SIGKILL
    survivor = deployed.worker()
    writing.finish()
    deployed.wait_until_applied()
    # The batches that the killed ones had stored came again.
    assert sum(said["skipped"] for said in survivor.words("applied")) > 0
    assert_exact(deployed.open_store(), journals)


def test_a_worker_stopped_beyond_its_session_then_resumed(deployed: Deployment):
    journals = make_journals(6)
    producer = deployed.open_log().producer()
    for journal in journals:
        publish(producer, journal, range(journal.frames // 2))
    zombie = deployed.worker(hold_at=1)
    assert zombie.wait_for("holding")["records"] > 0
    os.kill(zombie.pid, signal.SIGSTOP)
    deployed.worker()
    deployed.wait_until_applied()
    for journal in journals:
        publish(producer, journal, range(journal.frames // 2, journal.frames))
        journal.accepted_frames = journal.frames
    # It goes on with a batch that others have applied, and passed, meanwhile.
    os.kill(zombie.pid, signal.SIGCONT)
    zombie.tell()
    zombie.wait_for("applied")
    deployed.wait_until_applied()
    assert_exact(deployed.open_store(), journals)


def test_workers_that_come_and_go_under_load(deployed: Deployment):
    journals = make_journals(6, points=20_000)
    writing = deployed.writing(journals, pause_s=0.01)
    workers = [deployed.worker(max_records=5)]
    for turn in range(6):
        workers.append(deployed.worker(max_records=5))
        workers[-1].wait_for("started")
        time.sleep(0.7)
        leaving = workers.pop(0)
        if turn % 2:
            leaving.stop()
        else:
            leaving.end()
    writing.finish()
    deployed.wait_until_applied()
    assert_exact(deployed.open_store(), journals)


def test_two_workers_that_both_have_every_partition(deployed: Deployment):
    journals = make_journals(4, points=5_000)
    producer = deployed.open_log().producer()
    for journal in journals:
        publish(producer, journal, range(journal.frames))
        journal.accepted_frames = journal.frames
    both = [deployed.worker(role="apply", seed=seed) for seed in (1, 2)]
    for worker in both:
        worker.wait_for("ready")
    for worker in both:
        worker.tell()
    for worker in both:
        worker.wait_for("done")
    assert_exact(deployed.open_store(), journals)


@pytest.mark.timeout(240)
def test_a_store_that_is_away_for_a_minute(deployed: Deployment):
    journals = make_journals(4, points=20_000)
    worker = deployed.worker()
    writing = deployed.writing(journals, pause_s=0.02)
    wait_for(lambda: sum(w["records"] for w in worker.words("applied")) > 20)
    deployed.outage.begin()
    time.sleep(3.0)
    before = deployed.lag()
    wait_for(lambda: deployed.lag() > before + 50)
    time.sleep(OUTAGE_S)
    # Nothing is skipped meanwhile: what grows is the lag alone.
    assert deployed.lag() > before + 50
    deployed.outage.end()
    writing.finish()
    deployed.wait_until_applied()
    assert deployed.dead_letters() == []
    assert worker.process.poll() is None
    assert_exact(deployed.open_store(), journals)


def test_a_broker_killed_under_load(on_kafka: Deployment):
    journals = make_journals(4, points=20_000)
    writing = on_kafka.writing(journals, pause_s=0.01)
    workers = [on_kafka.worker(max_records=10) for _ in range(2)]
    for worker in workers:
        worker.wait_for("started")
    for pause_s in (0.0, 1.0):
        time.sleep(1.0)
        on_kafka.broker.kill()
        time.sleep(pause_s)
        on_kafka.broker.start()
    writing.finish()
    on_kafka.wait_until_applied()
    assert [worker.process.poll() for worker in workers] == [None, None]
    assert_exact(on_kafka.open_store(), journals)


def test_a_broker_that_stands_still_under_load(on_kafka: Deployment):
    journals = make_journals(4, points=20_000)
    writing = on_kafka.writing(journals, pause_s=0.01)
    on_kafka.worker(max_records=10).wait_for("applied")
    on_kafka.broker.pause()
    # Longer than a record waits for its confirmation.
    time.sleep(7.0)
    on_kafka.broker.resume()
    writing.finish()
    on_kafka.wait_until_applied()
    # What was given up was sent again, and some of it arrived twice or more.
    assert sum(j.sends - j.accepted_frames for j in journals) > 0
    assert_exact(on_kafka.open_store(), journals)
