"""Other processes on the store under test.

`Children.start("name", ...)` runs the function `name` of this module in a process of
its own, with an engine opened there. It talks in lines: what it prints, `read` returns;
what `tell` sends, it reads from its standard input.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.storage.engine.base import Engine, Transaction
from tests.backend.storage.engine.subjects import Spec

ROOT = Path(__file__).parents[4]
PATIENCE_S = 60.0


class Child:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._unread = b""

    def read(self) -> Any:
        """Return the next thing the child said."""
        line = self.read_or_none()
        assert line is not None, "the child ended without a word"
        return json.loads(line)

    def read_or_none(self) -> bytes | None:
        """Return the next whole line, None at the end of the child's output."""
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._unread:
            readable, _, _ = select.select([descriptor], [], [], PATIENCE_S)
            assert readable, "the child said nothing in time"
            data = os.read(descriptor, 65536)
            if not data:
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def read_rest(self) -> list[Any]:
        """Return everything said until the child ended."""
        said = []
        while (line := self.read_or_none()) is not None:
            said.append(json.loads(line))
        return said

    def tell(self, line: str = "go") -> None:
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def join(self) -> None:
        assert self.process.wait(PATIENCE_S) == 0


class Children:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._started: list[Child] = []

    def start(self, name: str, *arguments: Any, **options: Any) -> Child:
        """Run function `name` of this module in a new process.

        Args:
            name: The function; it gets the engine and `arguments`.
            arguments: JSON values.
            options: More options for the engine.
        """
        task = {
            "class_path": self._spec.class_path,
            "options": {**self._spec.options, **options},
            "name": name,
            "arguments": arguments,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.backend.storage.engine.children"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        child = Child(process)
        self._started.append(child)
        child.tell(json.dumps(task))
        return child

    def stop(self) -> None:
        for child in self._started:
            child.kill()
            child.process.stdin.close()
            child.process.stdout.close()


def say(thing: Any) -> None:
    print(json.dumps(thing), flush=True)  # noqa: T201 - the way to talk


# What a child can do


def increment(engine: Engine, key: str, times: int) -> None:
    """Count up with a read and a set, which is wrong unless transactions conflict."""

    def step(tr: Transaction) -> None:
        count = int(tr.get(key.encode()) or b"0")
        tr.set(key.encode(), b"%d" % (count + 1))

    for _ in range(times):
        engine.transact(step, timeout_s=PATIENCE_S)


def append_once(engine: Engine, name: str, times: int) -> None:
    """Add up numbers in a way that a repeated commit does not change."""
    last_key, sum_key = f"{name}/last".encode(), f"{name}/sum".encode()

    def step(tr: Transaction, number: int) -> None:
        if int(tr.get(last_key) or b"-1") < number:
            tr.add(sum_key, number)
            tr.set(last_key, b"%d" % number)

    for number in range(times):
        engine.transact(lambda tr: step(tr, number), timeout_s=PATIENCE_S)  # noqa: B023


def add(engine: Engine, key: str, times: int) -> None:
    for _ in range(times):
        engine.transact(lambda tr: tr.add(key.encode(), 1))


def set_when_told(engine: Engine, key: str, value: str) -> None:
    say("ready")
    input()
    engine.transact(lambda tr: tr.set(key.encode(), value.encode()))
    say("set")


def write_until_killed(engine: Engine, first: int, size: int) -> None:
    """Write numbered transactions of three keys; say each number once committed."""
    value = b"x" * size

    def write(tr: Transaction, number: int) -> None:
        for part in (b"a", b"b", b"c"):
            tr.set(b"%b/%012d" % (part, number), b"%d" % number + value)

    number = first
    while True:
        engine.transact(lambda tr: write(tr, number))  # noqa: B023 - runs at once
        say(number)
        number += 1


def move_until_killed(engine: Engine, keys: int) -> None:
    """Move amounts between counters, whose sum never changes."""

    def move(tr: Transaction, number: int) -> None:
        for key, amount in ((number % keys, -number), ((number + 1) % keys, number)):
            name = b"move/%04d" % key
            tr.set(name, b"%d" % (int(tr.get(name) or b"0") + amount))

    number = 0
    say("ready")
    while True:
        engine.transact(lambda tr: move(tr, number))  # noqa: B023 - runs at once
        number += 1


def stamp(engine: Engine, prefix: str, times: int) -> None:
    for number in range(times):
        engine.transact(
            lambda tr: tr.set_versionstamped_key(
                prefix.encode(),
                b"",
                b"%d" % number,  # noqa: B023 - runs at once
            )
        )


def hold_snapshot(engine: Engine, key: str) -> None:
    """Read, then stay inside the transaction until killed."""

    def hold(tr: Any) -> None:
        tr.get(key.encode())
        say("ready")
        time.sleep(PATIENCE_S)

    engine.read(hold)


def fill(engine: Engine, prefix: str, transactions: int, values: int) -> None:
    """Write about 1 MB for every ten values."""
    for number in range(transactions):

        def write(tr: Transaction) -> None:
            for item in range(values):
                tr.set(
                    b"%b/%06d/%04d" % (prefix.encode(), number, item),  # noqa: B023
                    b"x" * 90_000,
                )

        engine.transact(write)
    say("filled")


def read_when_told(engine: Engine, key: str) -> None:
    """Answer every line with the value of `key`."""
    say("ready")
    while True:
        input()
        value = engine.read(lambda tr: tr.get(key.encode()))
        say(None if value is None else value.decode())


def main() -> None:
    task = json.loads(sys.stdin.readline())
    engine = Spec(task["class_path"], task["options"]).open()
    function: Callable[..., None] = globals()[task["name"]]
    function(engine, *task["arguments"])
    engine.close()


if __name__ == "__main__":
    main()
