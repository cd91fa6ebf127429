"""The API over a real, empty store of each test's own, filled as the worker would."""

import itertools
import json

import numpy as np
import pytest
from django.test import Client

from backend.bus.base import Record, RecordPosition
from backend.bus.topics import INGESTION
from backend.services.ingestion import apply_records
from matyan_wire import batch as wire
from matyan_wire.contexts import canonical_context
from matyan_wire.tree_stream import iter_trees

REST = "/api/v1/rest"
T0_US = 1_795_420_800_000_000
"""2026-11-23 08:00 UTC, when the tests' first run begins."""


@pytest.fixture
def store(runtime):
    """The store the API uses."""
    return runtime.get_store()


class Api:
    """A test client that speaks JSON and knows where the API is."""

    def __init__(self):
        self.client = Client()

    def __call__(self, method, path, body=None, **headers):
        content = {} if body is None else {"data": json.dumps(body)}
        return self.client.generic(
            method,
            f"{REST}/{path}",
            content_type="application/json",
            headers=headers,
            **content,
        )

    def get(self, path, **headers):
        return self("GET", path, **headers)

    def post(self, path, body=None, **headers):
        return self("POST", path, body, **headers)

    def put(self, path, body=None, **headers):
        return self("PUT", path, body, **headers)

    def delete(self, path, **headers):
        return self("DELETE", path, **headers)

    def stream(self, path, **headers):
        """Return the decoded pairs of a streaming answer."""
        return pairs(self.get(path, **headers))

    def trees(self, path, **headers):
        """Return the decoded runs of a search, progress frames left out."""
        found = self.stream(path, **headers)
        return {key: tree for key, tree in found if not str(key).startswith("progress")}


def pairs(response):
    """Return the decoded (key, tree) pairs of a streaming response."""
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/octet-stream"
    return list(iter_trees(response.streaming_content))


@pytest.fixture
def api(store):
    """A client of the API."""
    return Api()


class Writer:
    """Puts batches into the store as the ingestion worker does."""

    def __init__(self, store):
        self.store = store
        self.offsets = itertools.count()

    def send(self, run_id, *, received_us=T0_US, **fields):
        batch = wire.Batch(wire.BATCH_VERSION, run_id, **fields)
        offset = next(self.offsets)
        record = Record(
            RecordPosition("log", INGESTION, 0, offset),
            run_id.encode(),
            wire.encode_envelope(
                received_us=received_us,
                digest=b"%16d" % offset,
                batch=wire.encode_batch(batch),
            ),
            received_us,
        )
        result = apply_records(self.store, [record])
        assert not result.poison, result.poison

    def run(self, run_id, *, second=0, events=(), attributes=None, tags=(), **props):
        """Make a run, created `second` seconds after T0."""
        made = [wire.CreateRun(client_time_us=wire.UNKNOWN_TIME), *events]
        if props:
            made.append(wire.SetProperties(**props))
        if attributes:
            pairs_ = [
                ([key], wire.encode_payload(value)) for key, value in attributes.items()
            ]
            made.append(wire.SetAttributes(pairs_))
        made += [wire.AddTag(tag) for tag in tags]
        self.send(run_id, received_us=T0_US + second * 1_000_000, events=made)

    def finish(self, run_id, *, second):
        self.send(
            run_id,
            received_us=T0_US + second * 1_000_000,
            events=[wire.FinishRun()],
        )

    def metric(self, run_id, name, values, *, context=None, steps=None, **columns):
        self.metrics(run_id, [(name, context, values)], steps=steps, **columns)

    def metrics(self, run_id, series, *, steps=None, times_us=None, epochs=None):
        """Track (name, context, values) triples, each over the same steps."""
        count = len(series[0][2])
        steps = np.arange(count) if steps is None else np.asarray(steps)
        times_us = T0_US + steps * 1_000 if times_us is None else np.asarray(times_us)
        values = np.concatenate([np.asarray(one[2], "<f8") for one in series])
        points = wire.PointColumns(
            count * len(series),
            np.repeat(np.arange(len(series)), count).astype("<u4").tobytes(),
            np.tile(steps, len(series)).astype("<i8").tobytes(),
            values.tobytes(),
            np.tile(times_us, len(series)).astype("<i8").tobytes(),
            b"" if epochs is None else np.asarray(epochs, "<f8").tobytes(),
        )
        refs = [
            wire.SeriesRef("metric", name, canonical_context(context))
            for name, context, _ in series
        ]
        self.send(run_id, series=refs, points=points)

    def objects(self, run_id, kind, name, payloads, *, steps=None, context=None):
        """Track objects of one series, one a step."""
        count = len(payloads)
        steps = np.arange(count) if steps is None else np.asarray(steps)
        columns = wire.ObjectColumns(
            count,
            bytes(4 * count),
            steps.astype("<i8").tobytes(),
            (T0_US + steps * 1_000).astype("<i8").tobytes(),
            [wire.encode_payload(payload) for payload in payloads],
        )
        ref = wire.SeriesRef(kind, name, canonical_context(context))
        self.send(run_id, series=[ref], objects=columns)


@pytest.fixture
def writer(store):
    """Puts data into the API's store."""
    return Writer(store)
