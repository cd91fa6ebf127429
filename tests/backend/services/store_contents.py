"""A small store with something of everything, written as the services write it."""

from __future__ import annotations

import random

from backend.domain.reactions import Reaction
from backend.services.documents import create_document
from backend.services.experiments import create_experiment
from backend.services.ingestion import apply_records
from backend.services.notes import create_note
from backend.services.reactions import note_reactions
from backend.services.runs import delete_run, purge_run
from backend.services.tags import create_tag
from backend.storage.factory import Store
from backend.storage.repositories.documents import REPORTS
from matyan_wire.batch import (
    AddTag,
    BlobGrant,
    BlobRef,
    CreateRun,
    Event,
    FinishRun,
    Position,
    SeriesRef,
    SetAttributes,
    SetProperties,
    encode_payload,
)
from tests.backend.storage.series_model import RECEIVED_US, Frame, Log, Point

LOSS = SeriesRef("metric", "loss", '{"subset":"train"}')
TINY = SeriesRef("metric", "tiny")
TEXTS = SeriesRef("texts", "samples")
INCOMPRESSIBLE = random.Random(0).randbytes(120_000).hex()


def points_of(ref: SeriesRef, start: int, stop: int) -> list[Point]:
    values = (
        [float(step) for step in range(start, stop)]
        if ref.kind == "metric"
        else [f"text {step}" for step in range(start, stop)]
    )
    return [Point(ref, start + at, value) for at, value in enumerate(values)]


def fill(store: Store) -> None:
    """Write two runs, one of them sealed with late points, and all around them."""
    log = Log()

    def send(run_id: str, points: list[Point], *events: Event, seq: int) -> None:
        frame = Frame(points, list(events), Position(1, seq, writer="w"), run_id)
        assert apply_records(store, [log.append(frame)]).poison == []

    for run_id in ("sealed", "open", "purged", "deleted"):
        send(
            run_id,
            [],
            CreateRun(RECEIVED_US),
            SetProperties(name=f"The {run_id} run", experiment="baseline"),
            AddTag("tagged"),
            SetAttributes([(["params", "text"], encode_payload("x" * 100))]),
            SetAttributes([(["big"], encode_payload(INCOMPRESSIBLE))]),
            BlobGrant("model.pt", "0" * 32),
            BlobRef("model.pt", "blobs/1"),
            seq=1,
        )
    send("sealed", points_of(LOSS, 100, 5000) + points_of(TINY, 0, 3), seq=2)
    send("sealed", points_of(TEXTS, 0, 30), FinishRun(RECEIVED_US), seq=3)
    send("sealed", points_of(LOSS, 0, 100), seq=4)
    for seq in (2, 3):
        start = seq * 1000
        send("open", points_of(LOSS, start, start + 900), seq=seq)
    send("open", points_of(TEXTS, 0, 10), seq=4)
    send("purged", points_of(LOSS, 0, 3000), seq=2)
    send("deleted", points_of(LOSS, 0, 3000), seq=2)
    _around(store)


def _around(store: Store) -> None:
    other = create_experiment(store, name="other", now_us=RECEIVED_US)
    create_tag(store, name="unused", now_us=RECEIVED_US)
    for kind, owner_id in (("run", "open"), ("experiment", other.experiment_id)):
        create_note(
            store, owner_kind=kind, owner_id=owner_id, content="x", now_us=RECEIVED_US
        )
    for code in ("short", "long " * 40_000):
        create_document(
            store,
            collection=REPORTS,
            fields={"name": "a report", "code": code},
            now_us=RECEIVED_US,
        )
    number = store.engine.read(lambda tr: store.runs.get(tr, "purged")).number
    for run_id in ("purged", "deleted"):
        delete_run(store, run_id=run_id, now_us=RECEIVED_US)
    purge_run(store, run_number=number)
    reaction = Reaction(
        event_id="run_deleted/deleted/1",
        event=b"{}",
        key=b"deleted",
        log_id="log",
        topic="control-events",
        partition=0,
        offset=7,
        noted_us=RECEIVED_US,
        due_us=RECEIVED_US,
    )
    note_reactions(store, [reaction], now_us=RECEIVED_US)
