"""What `track()` costs the training loop."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from matyan_project.local_server import LocalServer

_LOOP = """
import json, sys, time
from matyan_client import Run
run = Run(repo=sys.argv[1], capture_terminal_logs=False)
def measure(value, count, **names):
    taken = []
    for step in range(count):
        begin = time.perf_counter_ns()
        run.track(value, step=step, **names)
        taken.append(time.perf_counter_ns() - begin)
    taken.sort()
    return taken[count // 2] / 1e3, taken[count * 99 // 100] / 1e3
scalar = measure(0.5, 100_000, name="loss", context={"subset": "train"})
ten = measure({f"m{i}": 0.5 for i in range(10)}, 20_000, context={"subset": "train"})
run.close()
print(json.dumps([*scalar, *ten]))
"""


def track(server: LocalServer) -> list[dict[str, Any]]:
    """Median and 99th percentile of 100,000 calls in a tight loop, sender active."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOP, server.url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    names = (
        "track_scalar_p50",
        "track_scalar_p99",
        "track_dict10_p50",
        "track_dict10_p99",
    )
    return [
        {"name": name, "value": round(value, 2), "unit": "us"}
        for name, value in zip(names, json.loads(done.stdout), strict=True)
    ]
