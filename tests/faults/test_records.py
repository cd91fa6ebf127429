"""Records that are bad, huge, repeated or out of order."""

from __future__ import annotations

import numpy as np
import pytest

from backend.bus.factory import open_event_log
from backend.bus.topics import INGESTION
from backend.errors import EventLogError, RecordTooLargeError
from matyan_wire.batch import (
    BATCH_VERSION,
    METRIC,
    Batch,
    CreateRun,
    PointColumns,
    Position,
    SeriesRef,
    encode_batch,
    encode_envelope,
)
from tests.e2e.journal import EPOCH_US, Journal, assert_exact
from tests.faults.deployment import (
    PATIENCE_S,
    Deployment,
    has_positions,
    make_journals,
    publish,
    record,
    repeated,
    shuffled,
)

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.timeout(150)]

MANY = 100_000
POISON = (b"", b"\xc1 not MessagePack", b"\x94\x01\x00\xc4\x00\x90", b"\x00" * 5_000)


def test_poison_between_good_records(deployed: Deployment):
    journals = make_journals(3, points=2_000)
    producer = deployed.open_log().producer()
    for journal in journals:
        for frame in range(journal.frames):
            publish(producer, journal, [frame])
            if frame % 10 == 5:
                value = POISON[frame // 10 % len(POISON)]
                key = journal.run_id.encode()
                producer.publish(INGESTION, key=key, value=value).result(PATIENCE_S)
        journal.accepted_frames = journal.frames
    deployed.worker()
    deployed.wait_until_applied()
    letters = deployed.dead_letters()
    assert sorted(letter.value for letter in letters) == sorted(POISON * 3)
    assert all(dict(letter.headers)["reason"] for letter in letters)
    assert_exact(deployed.open_store(), journals)


def test_records_of_the_greatest_size(deployed: Deployment):
    # 28 bytes a point: just below the topic's limit, and just above.
    largest = Journal("run-0", 330_000, steps_per_frame=66_000)
    too_large = Journal("run-1", 340_000, steps_per_frame=68_000)
    small = Journal("run-2", 1_000)
    producer = deployed.open_log().producer()
    assert 9_000_000 < len(record(largest, 0)) < 9 << 20
    with pytest.raises(RecordTooLargeError):
        publish(producer, too_large, [0])
    publish(producer, small, range(small.frames))
    publish(producer, largest, [0, 0])
    small.accepted_frames = small.frames
    largest.accepted_frames = 1
    deployed.worker()
    deployed.wait_until_applied()
    assert_exact(deployed.open_store(), [largest, small])


def test_a_hundred_thousand_series_in_one_frame(deployed: Deployment):
    batch = Batch(
        BATCH_VERSION,
        "wide",
        position=Position(epoch=1, seq=1, writer="journal"),
        series=[SeriesRef(METRIC, f"layer.{n}", "{}") for n in range(MANY)],
        points=PointColumns(
            count=MANY,
            series=np.arange(MANY, dtype="<u4").tobytes(),
            steps=np.zeros(MANY, dtype="<i8").tobytes(),
            values=np.arange(MANY, dtype="<f8").tobytes(),
            times_us=np.full(MANY, EPOCH_US, dtype="<i8").tobytes(),
        ),
        events=[CreateRun(client_time_us=EPOCH_US)],
    )
    value = encode_envelope(received_us=EPOCH_US, digest=b"", batch=encode_batch(batch))
    producer = deployed.open_log().producer()
    # Twice: the second is a repetition.
    for _ in range(2):
        producer.publish(INGESTION, key=b"wide", value=value).result(PATIENCE_S)
    deployed.worker()
    deployed.wait_until_applied()
    assert deployed.dead_letters() == []
    store = deployed.open_store()
    run = store.engine.read(lambda tr: store.runs.get(tr, "wide"))
    listed = store.engine.read(lambda tr: store.series.list(tr, run.number))
    found = {s.name: (s.summary.count, s.summary.last) for s in listed}
    assert found == {f"layer.{n}": (1, float(n)) for n in range(MANY)}


def test_records_repeated_and_out_of_order(deployed: Deployment):
    journals = make_journals(6, points=5_000)
    producer = deployed.open_log().producer()
    deployed.worker(max_records=7)
    for number, journal in enumerate(journals):
        order = repeated if has_positions(journal) else shuffled
        publish(producer, journal, order(journal.frames, seed=number))
        journal.accepted_frames = journal.frames
    deployed.wait_until_applied()
    assert_exact(deployed.open_store(), journals)


def test_an_outage_longer_than_the_retention_is_refused(on_kafka: Deployment):
    options = {**on_kafka.log["options"], "retention_s": 60.0}
    with pytest.raises(EventLogError, match="shorter than an outage"):
        open_event_log(engine=on_kafka.log["engine"], options=options)
