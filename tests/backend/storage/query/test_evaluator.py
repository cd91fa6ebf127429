"""What queries mean: names, Python's own comparisons, errors that mean "no match"."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.runs import Run
from backend.domain.series import Series, Summary
from backend.storage.query.parser import compile_query
from backend.storage.query.proxies import RunView, TagNames

CREATED_S = 1_700_000_000.5


def summary(last: float, *, first: float = 1.0) -> Summary:
    return Summary(
        count=2,
        first_step=0,
        last_step=7,
        first=first,
        last=last,
        min=min(first, last),
        min_step=0,
        max=max(first, last),
        max_step=0,
        sum=first + last,
        nan_count=0,
        inf_count=0,
        first_non_finite_step=None,
    )


def series(
    name: str, context: dict[str, object], last: float, *, kind: str = "metric"
) -> Series:
    return Series(1, 0, kind, name, context, str(context), summary(last))


LOSS = series("loss", {"subset": "train", "a b": {"c": 1}}, 0.5)
VAL_LOSS = series("loss", {}, 0.25)
IMAGE = series("img", {"subset": "val"}, math.nan, kind="images")

ATTRIBUTES: dict[str, Any] = {
    "hparams": {"lr": 0.001, "batch": 32, "layers": [1, 2], "items": "mine"},
    "name": "shadowed",
    "big": 10**30,
    "nan": math.nan,
    "none": None,
    "text": "5",
    "flag": True,
    "__system_params": {"git": "x"},
    "list": [{"k": 1}],
}


def view(**changes: Any) -> RunView:
    run = Run(
        number=1,
        run_id="abc",
        name="my run",
        description="about",
        created_us=int(CREATED_S * 1e6),
        finished_us=int((CREATED_S + 10) * 1e6),
        active=False,
    )
    found = {
        "run": run,
        "experiment_name": "exp",
        "tag_names": TagNames(("a", "b")),
        "attributes": ATTRIBUTES,
        "series": (LOSS, VAL_LOSS),
        "now_us": int((CREATED_S + 100) * 1e6),
    }
    return RunView(**{**found, **changes})


def matches(text: str, **changes: Any) -> bool:
    return compile_query(text).matches(view(**changes))


TRUE = [
    # run
    "run.hash == 'abc' and run.name == 'my run' and run.description == 'about'",
    "run.experiment == 'exp'",
    "run.experiment in ['exp', 'other']",
    "run.created_at == 1700000000.5 and run.creation_time > 1.7e9",
    "run.end_time == 1700000010.5 and run.finalized_at == run.end_time",
    "run.duration == 10.0",
    "run.active == False and not run.active and run.archived == False",
    "run.is_archived == run.archived",
    # tags
    "'a' in run.tags and run.tags.contains('b') and 'c' not in run.tags",
    "any([t in ['a', 'z'] for t in run.tags])",
    "len(run.tags) == 2 and sorted(run.tags)[0] == 'a'",
    # attributes
    "run.hparams.lr < 0.01 and run['hparams']['lr'] < 0.01",
    "run['hparams', 'lr'] == 0.001 and run['hparams', 'missing'] == None",
    "run['hparams'].lr == 0.001 and run.hparams['lr'] == 0.001",
    "run.missing == None and run['missing'] is None and not run.missing",
    "run.hparams.missing == None",
    "run['name'] == 'shadowed' and run.name != 'shadowed'",
    "run['__system_params'].git == 'x'",
    "run.hparams.items == 'mine'",
    "run.list[0].k == 1 and run.hparams.layers == [1, 2]",
    "run.hparams.batch == 32.0 and run.hparams.batch != 5",
    "run.none == None and run.missing != 5",
    "run.big == 10 ** 30 and run.big > 1",
    "run.nan != run.nan and not run.nan == NaN and Inf > 1 and -Inf < 1",
    "run.flag == True and run.flag == 1",
    # metrics
    "run.metrics['loss'].last == 0.25",
    "run.metrics['loss', {'subset': 'train', 'a b': {'c': 1}}].last == 0.5",
    "run.metrics['loss'].last_step == 7 and run.metrics['loss'].first == 1.0",
    "not run.metrics['nope'] and run.metrics['nope'].last == None",
    "not run.metrics['loss', {'subset': 'other'}]",
    # language
    "[x * 2 for x in [1, 2] if x > 1] == [4]",
    "{x for x in 'aab'} == {'a', 'b'} and {k: 1 for k in 'a'} == {'a': 1}",
    "sum(x for x in range(4)) == 6 and sum([1.5, 1]) == 2.5",
    "[a + b for a, b in zip([1], [2])] == [3]",
    "[y for x in [[1, 2], [3]] for y in x] == [1, 2, 3]",
    "(n := 3) + n == 6",
    "(lambda x, y=2: x * y)(3) == 6 and (lambda x: x)(x=1) == 1",
    "sorted([1, 3, 2], key=lambda v: -v) == [3, 2, 1]",
    "max([1, 2]) == 2 and min(3, 1) == 1 and max('ab', key=ord) == 'b'",
    "('yes' if run.active else 'no') == 'no'",
    "f'{run.name}-{1:03d}-{1.5!r}' == 'my run-001-1.5'",
    "'%s-%d' % ('a', 5) == 'a-5'",
    "1 < 2 < 3 and not 1 < 2 > 5",
    "run.name[0] == 'm' and run.name[:2] == 'my' and [1, 2, 3][-1] == 3",
    "run.name.startswith('my') and 'run' in run.name and run.name.upper() == 'MY RUN'",
    "', '.join(run.tags) == 'a, b' and 'a,b'.split(',') == ['a', 'b']",
    "7 // 2 == 3 and 7 % 4 == 3 and 2 ** 3 == 8 and ~1 == -2 and 1 | 2 == 3",
    "math.sqrt(4) == 2 and math.isnan(run.nan) and string.digits[0] == '0'",
    "isinstance(run.hparams.lr, float) and same_type(1, 2) and int('5') == 5",
    "test(False, 1, 2) == 2 and reorder([1, 2, 3], [3, 1]) == [3, 1]",
    "[*run.tags, 'c'] == ['a', 'b', 'c'] and max(*[1, 2]) == 2",
    "run.hparams.get('lr') == 0.001 and len(run.hparams.keys()) == 4",
    "list({'a': 1}.items()) == [('a', 1)]",
    # times
    "run.created_at > datetime(2023, 11, 14, fold=0)",
    "run.created_at > datetime.now() - timedelta(seconds=200)",
    "run.created_at < datetime.now()",
    "run.duration < timedelta(minutes=1)",
    "datetime.fromtimestamp(run.created_at).year == 2023",
]

FALSE = [
    "run.hparams.lr.x.y",
    "run.missing.deeper == None",
    "run.hparams['missing'] == None",
    "run.text < 6",
    "run.hparams.lr < '1'",
    "run.missing > 0",
    "run.name.format(1) == 'my run'",
    "'{0.real}'.format_map({'0': 1}) == '1'",
    "unknown_name == 1",
    "images.name == 'x'",
    "run.tags.append('c') == None",
    "run.hparams.update({'a': 1}) == None",
    "run.hparams.pop('lr') == 0.001",
    "run.hparams.layers.clear() == None",
    "1 / 0 == 1",
    "()",
    "[]",
    "len(run) == 1",
    "[x for x in run]",
    "run.name()",
    "open('/etc/passwd')",
    "getattr(run, 'name') == 'my run'",
    "print(1) == None",
    "type(run) == 1",
    "(1).real.real.as_integer_ratio()",
    "math.os",
    "datetime.resolution",
    "str.mro()",
]


@pytest.mark.parametrize("text", TRUE)
def test_matches(text: str) -> None:
    assert matches(text)


@pytest.mark.parametrize("text", FALSE)
def test_does_not_match(text: str) -> None:
    assert not matches(text)


def test_active_run_has_no_end_and_no_duration() -> None:
    run = Run(1, "abc", "n", "", 5, active=True)
    assert matches(
        "run.active == True and run.end_time == None and run.duration == 0.0", run=run
    )


SEQUENCE_TRUE = [
    "metric.name == 'loss' and metric.context.subset == 'train'",
    "(metric.name == 'acc') or (metric.name == 'loss')",
    "metric.context['a b'] == {'c': 1} and metric.context['a b'].c == 1",
    "metric.context.missing == None",
    "metric.context == {'subset': 'train', 'a b': {'c': 1}}",
    "metric.last == 0.5 and metric.last_step == 7 and metric.first == 1.0",
    "metric.run.hash == run.hash",
]
SEQUENCE_FALSE = [
    "metric.context['missing'] == None",
    "metric.nope == None",
    "images.name == 'loss'",
    "metric.name == 'acc'",
]


@pytest.mark.parametrize("text", SEQUENCE_TRUE)
def test_sequence_search_matches(text: str) -> None:
    query = compile_query(text, names=frozenset({"run", "metric"}))
    assert query.matches(view(), LOSS)


@pytest.mark.parametrize("text", SEQUENCE_FALSE)
def test_sequence_search_does_not_match(text: str) -> None:
    query = compile_query(text, names=frozenset({"run", "metric"}))
    assert not query.matches(view(), LOSS)


def test_objects_have_a_last_step_and_no_value() -> None:
    query = compile_query(
        "images.last == 0.0 and images.last_step == 7",
        names=frozenset({"run", "images"}),
    )
    assert query.matches(view(), IMAGE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metric.name == 'loss' and metric.context.subset == 'train'", True),
        ("metric.name == 'loss' and metric.context.subset == 'test'", False),
        ("images.name == 'img'", False),
        ("run.name == 'my run' or metric.name == 'nope'", True),
    ],
)
def test_metric_in_a_run_search_means_there_is_one(
    text: str, *, expected: bool
) -> None:
    assert matches(text) is expected


def test_data_of_the_run_is_not_changed_by_a_query() -> None:
    before = repr(ATTRIBUTES)
    matches("[run.hparams.copy(), run.hparams.layers + [1]]")
    matches("run.hparams.layers.copy() == [1, 2]")
    assert repr(ATTRIBUTES) == before


numbers = st.one_of(
    st.integers(-50, 50),
    st.floats(allow_nan=True, allow_infinity=True, width=32),
    st.booleans(),
)


@given(numbers, numbers)
def test_comparisons_are_pythons(left: float, right: float) -> None:
    attributes = {"a": left, "b": right}
    for text, expected in [
        ("run.a < run.b", left < right),
        ("run.a <= run.b", left <= right),
        ("run.a == run.b", left == right),
        ("run.a != run.b", left != right),
        ("run.a > run.b", left > right),
        ("run.a >= run.b", left >= right),
        ("run.a and run.b", bool(left and right)),
        ("run.a or run.b", bool(left or right)),
        ("not run.a", not left),
    ]:
        assert matches(text, attributes=attributes) is expected


@given(
    st.one_of(st.none(), st.text(max_size=3), st.integers(), st.lists(st.integers())),
    st.one_of(st.none(), st.text(max_size=3), st.integers(), st.lists(st.integers())),
)
def test_comparing_across_types_never_raises(left: Any, right: Any) -> None:
    attributes = {"a": left, "b": right}
    assert matches("run.a == run.b", attributes=attributes) is (left == right)
    ordered = matches("run.a < run.b", attributes=attributes)
    assert ordered is (type(left) is type(right) and left is not None and left < right)
