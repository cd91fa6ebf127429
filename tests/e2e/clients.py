"""Clients of a real server: the public one in a process of its own, and plain HTTP."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from matyan_wire.tree_stream import iter_trees

REST = "/api/v1/rest"
URIS_PER_REQUEST = 50


def python(python_: Path, script: str, *arguments: Any) -> str:
    """Run a script with the public client; return the last word it printed."""
    done = subprocess.run(
        [python_, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def wait_for(
    get: Callable[[], Any], *, timeout_s: float = 30.0, pause_s: float = 0.05
) -> Any:
    """Return what `get` returns once it is true, asking it now and then."""
    deadline = time.monotonic() + timeout_s
    while not (found := get()) and time.monotonic() < deadline:
        time.sleep(pause_s)
    assert found, "not there in time"
    return found


def finished(client: httpx.Client, run_id: str) -> Any:
    """Return what there is to know of a run, None until it is finished."""
    answer = client.get(f"{REST}/runs/{run_id}/info")
    if answer.status_code != 200 or answer.json()["props"]["active"]:
        return None
    return answer.json()


def series_values(
    client: httpx.Client, run_id: str, kind: str, name: str, context: dict[str, Any]
) -> list[Any]:
    """Return the steps of one series of objects as a run's page gets them."""
    answer = client.post(
        f"{REST}/runs/{run_id}/{kind}/get-batch",
        params={"record_density": 0, "index_density": 0},
        json=[{"name": name, "context": context}],
    )
    assert answer.status_code == 200, answer.text
    found = dict(iter_trees([answer.content]))
    assert (found["name"], found["context"]) == (name, context)
    return list(found["values"])


def blob_uris(value: Any) -> Iterator[str]:
    """Yield the URIs in a tree, in order."""
    if isinstance(value, dict):
        if "blob_uri" in value:
            yield value["blob_uri"]
        for child in value.values():
            yield from blob_uris(child)
    elif isinstance(value, list):
        for child in value:
            yield from blob_uris(child)


def read_blobs(client: httpx.Client, kind: str, uris: list[str]) -> list[bytes]:
    """Return the bytes behind URIs as a page gets them."""
    found: dict[str, bytes] = {}
    for start in range(0, len(uris), URIS_PER_REQUEST):
        some = uris[start : start + URIS_PER_REQUEST]
        answer = client.post(f"{REST}/runs/{kind}/get-batch", json=some)
        assert answer.status_code == 200, answer.text
        found |= dict(iter_trees([answer.content]))
    return [found[uri] for uri in uris]
