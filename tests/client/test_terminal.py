"""What the process prints, as the run's log lines."""

from __future__ import annotations

import sys
import threading
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from matyan_client import terminal
from matyan_client.terminal import LineCutter, TerminalCapture
from tests.client.conftest import wait_until


@given(pieces=st.lists(st.text(alphabet="ab\n", max_size=6), max_size=12))
def test_lines_are_what_the_terminal_shows(pieces):
    cutter = LineCutter()
    shown: dict[int, str] = {}
    for piece in pieces:
        shown.update(cutter.cut(piece))
    expected = "".join(pieces).split("\n")
    expected = expected if expected[-1] else expected[:-1]
    assert [shown[step] for step in range(len(shown))] == expected


def test_colours_and_rewritten_lines_are_reduced_to_what_is_seen():
    cut = LineCutter().cut("\x1b[31mred\x1b[0m\n10%\r20%\r30%\n\x1b]0;title\x07x\r\n")
    assert cut == [(0, "red"), (1, "30%"), (2, "x")]


def test_a_capture_copies_and_gives_the_streams_back(capsys):
    lines: dict[int, str] = {}
    before = sys.stdout.write
    first = TerminalCapture(lines.__setitem__)
    second = TerminalCapture(lambda *_: None)
    sys.stdout.write("hello\n")
    sys.stderr.write("to stderr\n")
    first.close()
    sys.stdout.write("not any more\n")
    second.close()
    first.close()
    assert list(lines.values()) == ["hello", "to stderr"]
    assert sys.stdout.write == before
    assert capsys.readouterr().out == "hello\nnot any more\n"


def test_what_a_run_prints_is_sent(server, open_run, monkeypatch):
    monkeypatch.setenv("MATYAN_CAPTURE_TERMINAL", "1")
    run = open_run(server.url)
    sys.stdout.write("epoch 1\n")
    sys.stdout.write("unfinished")
    run.close()
    lines = [(ref.name, step, line) for ref, step, line in server.objects("logs")]
    assert lines == [("logs", 0, "epoch 1"), ("logs", 1, "unfinished")]


@given(
    writes=st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=20),
    drained=st.sets(st.integers(0, 40)),
    whole=st.booleans(),
)
def test_every_line_is_kept_or_counted(writes, drained, whole):
    kept: dict[int, str] = {}
    dropped: list[int] = []
    pieces = [p for text in writes for p in ([text + "\n"] if whole else [text, "\n"])]
    with mock.patch.object(terminal, "MAX_QUEUED_CHARS", 6):
        capture = TerminalCapture(kept.__setitem__, dropped.append)
        capture._active = False  # its own thread ends: this one drains
        capture._alarm.put(None)
        capture._thread.join()
        capture._active = True
        for place, piece in enumerate(pieces):
            if place in drained:
                capture._drain()
            capture._take(piece)
        capture.close()
    assert len(kept) + sum(dropped) == len(writes)
    assert set(kept.values()) <= set(writes)


def test_output_faster_than_it_is_read_wakes_the_reader_and_is_counted(
    server, open_run, monkeypatch, capsys
):
    monkeypatch.setenv("MATYAN_CAPTURE_TERMINAL", "1")
    monkeypatch.setattr(terminal, "PUMP_EVERY_S", 3600)
    monkeypatch.setattr(terminal, "MAX_QUEUED_CHARS", 1000)
    entered, gate = threading.Event(), threading.Event()
    run = open_run(server.url)
    store = run._terminal._store

    def held(step: int, line: str) -> None:
        entered.set()
        gate.wait()
        store(step, line)

    monkeypatch.setattr(run._terminal, "_store", held)
    for number in range(6):
        sys.stdout.write(f"{number:99d}\n")
    assert entered.wait(5)  # half the bound is reached
    for number in range(6, 36):
        sys.stdout.write(f"{number:99d}\n")
    gate.set()
    assert wait_until(lambda: run.delivery.dropped)
    assert run.delivery.dropped == {"terminal_full": 20}
    run.close()
    lines = [
        int(line) for _, _, line in server.objects("logs") if line.strip().isdigit()
    ]
    assert lines == list(range(16))
    assert "prints faster than its output can be kept" in capsys.readouterr().err
