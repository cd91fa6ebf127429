"""Queries meant to hang, to exhaust memory, or to reach what they must not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typing_extensions import override

from backend.domain.runs import Run
from backend.storage.query import budget
from backend.storage.query.functions import NAMES, Namespace
from backend.storage.query.methods import METHODS
from backend.storage.query.parser import Query, compile_query
from backend.storage.query.proxies import RunView

LONG = "x" * 1_000_000
HUGE = 1 << 8_000_000


MANY = list(range(20_000))
COLLIDING = [number * ((1 << 61) - 1) for number in range(100_001)]


class Counted:
    """A value that counts how often it is compared or hashed."""

    work = 0

    def __init__(self, number: int) -> None:
        self.number = number

    @override
    def __eq__(self, other: object) -> bool:
        Counted.work += 1
        return self is other

    def __lt__(self, other: Counted) -> bool:
        Counted.work += 1
        return self.number < other.number

    @override
    def __hash__(self) -> int:
        Counted.work += 1
        return self.number


COUNTED = [Counted(number) for number in range(1_000)]


def view() -> RunView:
    attributes = {
        "text": LONG,
        "huge": HUGE,
        "many": MANY,
        "colliding": COLLIDING,
        "counted": COUNTED,
        "few": set(COUNTED[:100]),
        "word": "word",
    }
    return RunView(Run(1, "h", "n", "", 0), attributes=attributes)


def nested_zip(levels: int) -> str:
    loops = " ".join(f"for p{i + 1} in zip([p{i}], [p{i}])" for i in range(levels))
    return f"[str(p{levels}) for p0 in [1] {loops}]"


CUT_OFF = [
    "10 ** 10 ** 9",
    "pow(10, 10 ** 6)",
    "2 ** (2 ** 20) > 1",
    "1 << 10 ** 9",
    "(x := 10 ** 1000) * x * x",
    '"a" * 10 ** 9',
    "10 ** 9 * [0]",
    "(0,) * 10 ** 9",
    "range(10 ** 9)",
    "bytes(10 ** 9)",
    '"a".zfill(10 ** 9)',
    '"a".center(10 ** 9)',
    '"%1000000000d" % 1',
    '"%*d" % (1000000000, 1)',
    'f"{1:1000000000}"',
    'f"{1:{10 ** 8}}"',
    "round(5, -10 ** 9)",
    "math.factorial(10 ** 7)",
    "math.perm(10 ** 6)",
    "[0 for a in range(999) for b in range(999)]",
    "sum(1 for a in range(999) for b in range(999) for c in range(999))",
    "any(False for a in range(999) for b in range(999))",
    "1 in (0 for a in range(999) for b in range(999))",
    "(lambda f: f(f))(lambda f: f(f))",
    "(lambda f: [f(f) for x in range(900)])(lambda f: [f(f) for x in range(900)])",
    "[run.text + str(i) for i in range(999)]",
    "[run.text.replace('x', 'yy') for i in range(999)]",
    "['y' in run.text for i in range(999)]",
    "[[i] * 999 for i in range(999)]",
    "{i: list(range(999)) for i in range(999)}",
    nested_zip(40),
    " or ".join(
        ["(a0 := [1]) == 0"] + [f"(a{i + 1} := [a{i}, a{i}]) == 0" for i in range(40)]
    ),
    "str([run.text] * 1000)",
    "str([run.text for i in range(999)])",
    "[run.text, run.text, run.text, run.text, run.text, run.text, run.text]",
    "run.huge * run.huge",
    "run.huge // (run.huge >> 4000000)",
    "pow(3, run.huge, run.huge)",
    "math.gcd(run.huge, run.huge - 1)",
    "(a := [1, 2]) and [(a := a + a) for i in range(60)]",
    "(a := 'ab') and [(a := a + a) for i in range(60)]",
    "reorder(run.many, run.text)",
    "reorder(run.many, run.many)",
    "reorder(run.many, without=run.many)",
    "reorder([], run.many, run.many)",
    "run.text.rfind('xy' + run.text[:500000])",
    "run.text.rsplit('xy' + run.text[:500000])",
    "run.text.rpartition('xy' + run.text[:500000])",
    "run.text.strip('y' * 90000 + 'x')",
    "pow(base=3, exponent=run.huge, modulus=run.huge)",
    "{*run.colliding}",
    "set(run.colliding)",
    "{1}.union(run.colliding)",
    "{1}.issubset(run.colliding)",
]


@pytest.mark.parametrize("text", CUT_OFF)
def test_costly_query_is_cut_off_and_matches_nothing(text: str) -> None:
    query = compile_query(text)
    assert not query.matches(view())
    assert query.cut_off == 1


def callees() -> Iterator[str]:
    for name, value in NAMES.items():
        if isinstance(value, Namespace):
            yield from (f"{name}.{member}" for member in value.members)
        else:
            yield name
    examples = {list: "run.counted", set: "run.few", str: "run.word", dict: "{1: 2}"}
    for kind, value in examples.items():
        yield from (f"{value}.{name}" for name in METHODS[kind])


ARGUMENTS = [
    "run.counted",
    "run.counted[0]",
    "run.counted, run.counted",
    "run.few, run.counted",
    "run.counted, run.few, run.counted",
    "*[run.counted] * 300",
    "*run.counted",
]


@pytest.mark.parametrize("callee", list(callees()))
def test_no_step_of_any_function_does_much(callee: str) -> None:
    for arguments in ARGUMENTS:
        query = compile_query(f"{callee}({arguments})")
        before, Counted.work = query.steps_left, 0
        query.matches(view())
        steps = before - query.steps_left
        # Once through an argument is what a step may do besides, sorting it too.
        assert Counted.work <= len(COUNTED) * 30 + steps * 4, arguments


@pytest.mark.parametrize("encoding", ["punycode", "idna", "unicode_escape"])
def test_text_is_encoded_in_linear_time_only(encoding: str) -> None:
    assert compile_query("bytes('é', 'utf-8') != b''").matches(view())
    assert not compile_query(f"bytes('é', '{encoding}') != b''").matches(view())
    assert not compile_query(f"str(b'a', '{encoding}') != ''").matches(view())


OUT_OF_REACH = [
    "run.hash.format(run)",
    "'%(a)s' % {'a': 1} == '1'",
    "'{0.run}'.format(run)",
    "'{r.run}'.format_map({'r': run})",
    "run.run.run_id == 'h'",
    "run.attributes == run.text",
    "str.format('{0}', 1)",
    "(lambda: 0).func_globals",
    "[].append(1) == None",
    "eval('1')",
    "compile('1', '', 'eval')",
    "open('x')",
    "vars(run)",
    "dir(run)",
    "globals()",
    "type(1)",
    "object()",
    "getattr(run, 'hash')",
    "(x for x in [1]).gi_frame",
    "datetime.max.year",
    "run.created_at.hex()",
    "ValueError('x').args",
]


@pytest.mark.parametrize("text", OUT_OF_REACH)
def test_what_is_not_listed_cannot_be_reached(text: str) -> None:
    assert not compile_query(text).matches(view())


def exhaust(query: Query, times: int) -> None:
    for _ in range(times):
        query.matches(view())


def test_query_cut_off_too_often_is_given_up() -> None:
    query = compile_query("run.hash == 'h' or 10 ** 10 ** 9")
    assert query.matches(view())
    hostile = RunView(Run(2, "other", "n", "", 0))
    for _ in range(budget.MAX_CUT_OFF_EVALUATIONS):
        assert not query.matches(hostile)
    assert query.exhausted
    assert not query.matches(view())


def test_query_that_costs_too_much_in_all_is_given_up() -> None:
    query = compile_query("any([x == 900 for x in range(999)])")
    query.steps_left = 5_000
    assert query.matches(view())
    exhaust(query, 10)
    assert query.exhausted
    assert not query.matches(view())


def test_plain_predicates_cost_no_steps() -> None:
    query = compile_query("run.hparams == None and run.created_at >= 0")
    exhaust(query, 100)
    assert query.steps_left == budget.MAX_QUERY_STEPS
