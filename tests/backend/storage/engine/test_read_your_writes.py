"""A transaction reads what it has written, merged with what is stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.storage.engine.base import Engine, Transaction

KEYS = st.lists(st.sampled_from([0, 1, 2, 0x61, 0xFE]), min_size=1, max_size=3).map(
    bytes
)
BOUNDS = st.one_of(KEYS, st.just(b""), st.just(b"\xff"))
VALUES = st.binary(max_size=3)
WORDS = st.integers(0, 2**64 - 1)

STEPS = st.one_of(
    st.tuples(st.just("set"), KEYS, VALUES),
    st.tuples(st.just("clear"), KEYS),
    st.tuples(st.just("clear_range"), BOUNDS, BOUNDS),
    st.tuples(st.just("add"), KEYS, st.integers(-(2**64), 2**64)),
    st.tuples(st.just("max"), KEYS, WORDS),
    st.tuples(st.just("min"), KEYS, WORDS),
    st.tuples(st.just("get"), KEYS, st.booleans()),
    st.tuples(
        st.just("get_range"), BOUNDS, BOUNDS, st.integers(0, 4), st.booleans(),
        st.booleans(),
    ),
)  # fmt: skip


class Model:
    """A dictionary that does what a transaction does."""

    def __init__(self, content: dict[bytes, bytes]) -> None:
        self.content = dict(content)

    def set(self, key, value):
        self.content[key] = value

    def clear(self, key):
        self.content.pop(key, None)

    def clear_range(self, begin, end):
        for key in [key for key in self.content if begin <= key < end]:
            del self.content[key]

    def _number(self, key):
        return int.from_bytes(self.content.get(key, b"")[:8], "little")

    def add(self, key, amount):
        number = (self._number(key) + amount) % 2**64
        self.content[key] = number.to_bytes(8, "little")

    def max(self, key, value):
        self.content[key] = max(self._number(key), value).to_bytes(8, "little")

    def min(self, key, value):
        number = min(self._number(key), value) if key in self.content else value
        self.content[key] = number.to_bytes(8, "little")

    def get(self, key, snapshot):
        return self.content.get(key)

    def get_range(self, begin, end, limit, reverse, snapshot):
        pairs = sorted(p for p in self.content.items() if begin <= p[0] < end)
        return (pairs[::-1] if reverse else pairs)[: limit or None]


READS = {
    "get": lambda tr, key, snapshot: tr.get(key, snapshot=snapshot),
    "get_range": lambda tr, begin, end, limit, reverse, snapshot: tr.get_range(
        begin, end, limit=limit, reverse=reverse, snapshot=snapshot
    ),
}


def play(tr: Transaction, steps, model: Model):
    """Do `steps` on both; return what each answered."""
    answers = []
    for name, *arguments in steps:
        if name in READS:
            answers.append(
                (READS[name](tr, *arguments), getattr(model, name)(*arguments))
            )
        else:
            getattr(tr, name)(*arguments)
            getattr(model, name)(*arguments)
    return answers


def replace_content(engine: Engine, content: dict[bytes, bytes]) -> None:
    def write(tr):
        tr.clear_range(b"", b"\xff")
        for key, value in content.items():
            tr.set(key, value)

    engine.transact(write)


@pytest.mark.exact
@given(
    content=st.dictionaries(KEYS, VALUES, max_size=20),
    steps=st.lists(STEPS, max_size=30),
)
def test_a_transaction_behaves_like_a_dictionary(engine, content, steps):
    replace_content(engine, content)

    def run(tr):
        model = Model(content)
        return play(tr, steps, model), model.content

    answers, expected = engine.transact(run)
    for found, wanted in answers:
        assert found == wanted
    stored = engine.read(lambda tr: tr.get_range(b"", b"\xff"))
    assert stored == sorted(expected.items())


@pytest.mark.exact
def test_own_writes_are_seen_before_the_commit_and_by_nobody_else(subject):
    engine, other = subject.open(), subject.open()
    engine.transact(lambda tr: tr.set(b"b", b"old"))

    def run(tr):
        tr.set(b"a", b"1")
        tr.set(b"b", b"2")
        tr.clear(b"c")
        return (
            tr.get(b"a"),
            tr.get_range(b"", b"z"),
            other.read(lambda outside: outside.get_range(b"", b"z")),
        )

    mine, inside, outside = engine.transact(run)
    assert mine == b"1"
    assert inside == [(b"a", b"1"), (b"b", b"2")]
    assert outside == [(b"b", b"old")]


def test_a_limit_counts_what_remains_after_own_clears(engine):
    replace_content(engine, {b"%03d" % number: b"" for number in range(100)})

    def run(tr):
        tr.clear_range(b"010", b"090")
        tr.clear(b"005")
        tr.set(b"050", b"own")
        return [
            [
                int(key)
                for key, _ in tr.get_range(b"004", b"z", limit=8, reverse=reverse)
            ]
            for reverse in (False, True)
        ]

    forward, backward = engine.transact(run)
    assert forward == [4, 6, 7, 8, 9, 50, 90, 91]
    assert backward == [99, 98, 97, 96, 95, 94, 93, 92]


def test_get_many_and_get_ranges_see_own_writes(engine):
    replace_content(engine, {b"a": b"1", b"b": b"2"})

    def run(tr):
        tr.clear(b"a")
        tr.set(b"c", b"3")
        return tr.get_many([b"a", b"b", b"c"])

    assert engine.transact(run) == [None, b"2", b"3"]


def test_an_exception_from_fn_aborts_and_is_raised_unchanged(engine):
    class OwnError(Exception):
        pass

    def run(tr):
        tr.set(b"k", b"v")
        raise OwnError("mine")  # noqa: EM101

    with pytest.raises(OwnError, match=r"^mine$"):
        engine.transact(run)
    assert engine.read(lambda tr: tr.get(b"k")) is None


def test_later_writes_of_a_key_win(engine):
    def run(tr):
        tr.set(b"a", b"1")
        tr.clear(b"a")
        tr.set(b"a", b"2")
        tr.set(b"b", b"1")
        tr.clear_range(b"b", b"c")
        tr.set(b"c", b"1")
        tr.clear_range(b"c", b"d")
        tr.add(b"c", 7)

    engine.transact(run)
    assert engine.read(lambda tr: tr.get_range(b"", b"z")) == [
        (b"a", b"2"),
        (b"c", (7).to_bytes(8, "little")),
    ]
