from __future__ import annotations

from pathlib import Path

import pytest

from matyan_client.journal.ledger import FILE_NAME, Cut, Ledger


def test_frames_cut_before_a_crash_are_cut_again_alike(tmp_path: Path):
    ledger = Ledger(tmp_path)
    cuts = [ledger.cut(points=10 * n, events=n) for n in range(1, 6)]
    ledger.acknowledge(cuts[1])
    again = Ledger(tmp_path)
    assert again.acked == cuts[1]
    assert [again.cut(points=999, events=999) for _ in range(3)] == cuts[2:]
    assert again.planned is None
    assert again.cut(points=60, events=6) == Cut(1, 6, 60, 6)


def test_slots_are_used_again(tmp_path: Path):
    ledger = Ledger(tmp_path)
    for number in range(1, 300):
        cut = ledger.cut(points=number, events=0)
        ledger.acknowledge(cut)
    assert Ledger(tmp_path).acked == Cut(1, 299, 299, 0)
    assert Ledger(tmp_path).planned is None


def damage(path: Path, at: int) -> None:
    data = bytearray((path / FILE_NAME).read_bytes())
    data[at] ^= 0x40
    (path / FILE_NAME).write_bytes(bytes(data))


def test_a_damaged_acknowledgement_leaves_the_one_before(tmp_path: Path):
    ledger = Ledger(tmp_path)
    first, second = ledger.cut(points=1, events=0), ledger.cut(points=2, events=0)
    ledger.acknowledge(first)
    ledger.acknowledge(second)
    damage(tmp_path, 64 * ledger._acked_slot + 9)
    again = Ledger(tmp_path)
    assert again.acked == first
    assert again.planned == second


@pytest.mark.parametrize("seq", [2, 3])
def test_a_damaged_frame_starts_a_new_epoch_behind_what_is_acked(
    seq: int, tmp_path: Path
):
    ledger = Ledger(tmp_path)
    cuts = [ledger.cut(points=n, events=0) for n in (1, 2, 3)]
    ledger.acknowledge(cuts[0])
    damage(tmp_path, 4096 + 64 * seq + 16)
    again = Ledger(tmp_path)
    assert (again.acked, again.planned) == (Cut(2, 0, 1, 0), None)
    assert again.cut(points=3, events=0) == Cut(2, 1, 3, 0)


def test_a_restart_of_the_machine_starts_one_new_epoch(tmp_path: Path):
    ledger = Ledger(tmp_path)
    ledger.acknowledge(ledger.cut(points=4, events=2))
    ledger.cut(points=8, events=2)
    taken = Ledger(tmp_path, takeover=True)
    assert taken.acked == Cut(2, 0, 4, 2)
    taken.cut(points=9, events=3)
    assert Ledger(tmp_path).planned == Cut(2, 1, 9, 3)


def test_a_ledger_of_the_wrong_size_is_made_anew(tmp_path: Path):
    (tmp_path / FILE_NAME).write_bytes(b"short")
    assert Ledger(tmp_path).acked == Cut(1, 0, 0, 0)
