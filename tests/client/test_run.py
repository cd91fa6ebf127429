from __future__ import annotations

import contextlib
import math
import pickle
import sys
import threading
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan_client import Distribution, Figure, Run, Text
from matyan_client.attributes import Overlay, find, parse_key
from matyan_client.system import safe_arguments, safe_variables
from matyan_wire.batch import AUTO_STEP, SetAttributes, decode_payload
from tests.client.conftest import journals, wait_until
from tests.client.fake_server import FakeServer


def events(server: FakeServer, kind: str) -> list:
    return [event for event in server.events() if type(event).__name__ == kind]


# Tracking.


def test_every_kind_of_number_is_tracked(server, open_run):
    run = open_run(server.url)
    values = [1, True, 2.5, np.float32(0.1), np.int64(7), np.array(3.0), 2**70]
    for value in values:
        run.track(value, "n")
    run.close()
    assert [point[3] for point in server.points()] == [float(v) for v in values]
    assert [point[2] for point in server.points()] == list(range(len(values)))


@given(values=st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_floats_arrive_bit_for_bit(values, tmp_path_factory):
    with FakeServer() as server, Run(repo=server.url) as run:
        for value in values:
            run.track(value, "x")
        assert run.flush(5)
        found = [point[3] for point in server.points()]
    same = np.array(found).view(np.int64) == np.array(values).view(np.int64)
    assert same.all()


def test_a_mapping_is_one_point_each(server, open_run):
    run = open_run(server.url)
    run.track({"loss": 0.5, "acc": np.float64(0.25)}, step=7, epoch=1.5)
    run.close()
    found = {name: rest for name, *rest in server.points()}
    assert found["loss"][1:3] == [7, 0.5]
    assert found["acc"][1:3] == [7, 0.25]
    assert {rest[4] for rest in found.values()} == {1.5}
    assert len({rest[3] for rest in found.values()}) == 1


def test_a_mapping_is_stored_whole_or_not_at_all(server, open_run):
    run = open_run(server.url)
    with pytest.raises(TypeError, match="acc"):
        run.track({"loss": 0.5, "acc": "high"}, step=7)
    run.close()
    assert server.points() == []


def test_contexts_tell_series_apart_by_value_and_type(server, open_run):
    run = open_run(server.url)
    contexts = [
        None,
        {},
        {"a": 1},
        {"a": True},
        {"a": 1.0},
        {"a": "1"},
        {"a": None},
        {"a": {"b": [1, 2]}},
        {"x": "1", "y": "2"},
        {"y": "2", "x": "1"},
        {"a": np.int64(1)},
    ]
    for _ in range(2):
        for context in contexts:
            run.track(1.0, "loss", context=context)
    run.close()
    texts = [context for _, context, *_ in server.points()]
    expected = ["{}", "{}", '{"a":1}', '{"a":true}', '{"a":1.0}', '{"a":"1"}']
    expected += ['{"a":null}', '{"a":{"b":[1,2]}}', *['{"x":"1","y":"2"}'] * 2]
    expected += ['{"a":1}']
    assert texts == expected * 2


def test_times_are_this_process_s_clock(server, open_run):
    import time

    run = open_run(server.url)
    before = time.time_ns() // 1000
    run.track(1.0, "loss")
    after = time.time_ns() // 1000
    run.close()
    ((*_, time_us, _),) = server.points()
    assert before <= time_us <= after


def test_a_resumed_run_leaves_steps_to_the_store(server, open_run):
    run = open_run(server.url, "known")
    run.track(1.0, "loss")
    run.track(1.0, "loss", step=np.int32(5))
    run.track(1.0, "loss", step=6.0)
    run.close()
    assert [point[2] for point in server.points()] == [AUTO_STEP, 5, 6]


def test_threads_track_at_the_same_time(server, open_run):
    run = open_run(server.url)

    def work(name: str) -> None:
        for step in range(2000):
            run.track(step, name, step, context={"thread": name})

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.close()
    found: dict[str, list[int]] = {}
    for name, _, step, *_ in server.points():
        found.setdefault(name, []).append(step)
    assert found == {f"t{n}": list(range(2000)) for n in range(4)}


def test_ten_thousand_series_in_one_step(server, open_run):
    run = open_run(server.url)
    run.track({f"m{n}": float(n) for n in range(10_000)}, step=1)
    run.close()
    assert [point[3] for point in server.points()] == [float(n) for n in range(10_000)]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((1.0,), {}, ValueError, "name"),
        ((1.0, ""), {}, ValueError, "1 to 1024"),
        ((1.0, "x" * 2000), {}, ValueError, "1 to 1024"),
        ((1.0, 5), {}, TypeError, "text"),
        (("high", "x"), {}, TypeError, "Text"),
        ((object(), "x"), {}, TypeError, "cannot be tracked"),
        ((1j, "x"), {}, TypeError, "cannot be tracked"),
        ((10**400, "x"), {}, ValueError, "int of 1329 bits is too large"),
        ((10**9999, "x"), {}, ValueError, "int of 33216 bits is too large"),
        ((1.0, "x", 1.5), {}, TypeError, "whole number"),
        ((1.0, "x", "1"), {}, TypeError, "whole number"),
        ((1.0, "x", 2**63), {}, ValueError, "64 bits"),
        ((1.0, "x", None, "one"), {}, TypeError, "epoch"),
        ((1.0, "x"), {"context": "train"}, TypeError, "mapping"),
        ((1.0, "x"), {"context": {"a": object()}}, TypeError, "context"),
        ((1.0, "x"), {"context": {"a": "x" * 5000}}, ValueError, "4096"),
        (({"a": 1.0}, "x"), {}, ValueError, "not both"),
    ],
)
def test_misuse_is_refused_and_named(arguments, options, error, text, open_run):
    run = open_run("http://127.0.0.1:1")
    with pytest.raises(error, match=text):
        run.track(*arguments, **options)
    run.track(1.0, "x")
    assert run.delivery.accepted == 1


def test_a_closed_run_takes_nothing(server, open_run):
    run = open_run(server.url)
    run.track(1.0, "x")
    run.close()
    run.close()
    for use in (
        lambda: run.track(1.0, "x"),
        lambda: run.set("a", 1),
        lambda: run.add_tag("t"),
        lambda: run.log_info("m"),
    ):
        with pytest.raises(RuntimeError, match="is closed"):
            use()


def test_a_read_only_run_takes_nothing_and_sends_nothing(server):
    run = Run("known", repo=server.url, read_only=True)
    for use in (
        lambda: run.track(1.0, "x"),
        lambda: run.track({"x": 1.0}),
        lambda: run.track(Text("x"), "x"),
        lambda: run.set("a", 1),
        run.flush,
    ):
        with pytest.raises(RuntimeError, match="read-only"):
            use()
    run.close()
    assert server.received.requests == []


@pytest.mark.parametrize("run_hash", ["", "a/b", "..", "x" * 129, "é"])
def test_what_cannot_be_a_run_s_id_is_refused(run_hash):
    with pytest.raises(ValueError, match="cannot be a run's id"):
        Run(run_hash)


def test_arguments_that_cannot_be_used_are_refused(monkeypatch, state_dir):
    with pytest.raises(ValueError, match="http://"):
        Run(repo="localhost")
    with pytest.raises(ValueError, match="system_tracking_interval"):
        Run(system_tracking_interval=-1)
    with pytest.raises(TypeError, match="repo="):
        Run(repo=5)
    monkeypatch.setenv("MATYAN_STRICT", "perhaps")
    with pytest.raises(ValueError, match="MATYAN_STRICT='perhaps'"):
        Run(repo="http://127.0.0.1:1")
    monkeypatch.setenv("MATYAN_STRICT", "0")
    with pytest.raises(TypeError, match="experiment"):
        Run(repo="http://127.0.0.1:1", experiment=5)
    assert journals(state_dir) == []


def test_an_exception_in_the_block_still_finishes_the_run(server):
    with contextlib.suppress(KeyError), Run(repo=server.url) as run:
        run.track(1.0, "x")
        raise KeyError
    assert len(server.points()) == 1
    assert len(events(server, "FinishRun")) == 1


# Attributes, properties, tags, logs, objects.


@dataclass
class Config:
    lr: float
    layers: tuple[int, ...]


def test_attributes_are_assigned_where_they_are_named(server, open_run):
    run = open_run(server.url)
    run["hparams"] = {"lr": np.float32(0.5), "layers": (1, 2)}
    run["hparams.batch.size"] = np.int64(32)
    run["a", "b.c"] = None
    run.set("config", Config(0.1, (3, 4)))
    run["args"] = Namespace(path=Path("x"), flag=True)
    run["huge"] = 2**80
    del run["hparams.lr"]
    assert run["hparams"] == {"layers": [1, 2], "batch": {"size": 32}}
    assert run["config.layers"] == [3, 4]
    assert run.get("missing", 5) == 5
    with pytest.raises(KeyError, match=r"hparams\.lr"):
        run["hparams.lr"]
    run.close()
    sets = [event for event in server.events() if isinstance(event, SetAttributes)]
    assignments = [pair for event in sets for pair in event.assignments]
    found = {tuple(path): decode_payload(value) for path, value in assignments}
    assert found[("hparams", "batch", "size")] == 32
    assert found[("a", "b.c")] is None
    assert found[("args",)] == {"path": "x", "flag": True}
    assert found[("huge",)] == float(2**80)
    (deletion,) = events(server, "DeleteAttributes")
    assert deletion.paths == [["hparams", "lr"]]


@pytest.mark.parametrize(
    ("key", "value", "error", "text"),
    [
        ("", 1, ValueError, "empty"),
        ("a..b", 1, ValueError, "empty"),
        (5, 1, TypeError, "text"),
        ("a", object(), TypeError, "a is a object"),
        ("a", {"b": [1, {"c": open}]}, TypeError, r"a\.b\[1\]\.c"),
        ("a", "x" * 5_000_000, ValueError, "limit"),
        ("a.b", [[]], None, ""),
    ],
)
def test_attributes_that_cannot_be_stored_are_named(key, value, error, text, open_run):
    run = open_run("http://127.0.0.1:1")
    expected = pytest.raises(error, match=text) if error else contextlib.nullcontext()
    with expected:
        run[key] = value


trees = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3),
    max_leaves=6,
)
paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(tuple)


@given(
    stored=st.dictionaries(st.sampled_from("abc"), trees, max_size=3),
    changes=st.lists(st.tuples(paths, st.none() | trees), max_size=8),
)
def test_the_overlay_is_what_changing_the_tree_would_be(stored, changes):
    import copy

    overlay, expected = Overlay(), copy.deepcopy(stored)
    for path, value in changes:
        if value is None:
            overlay.delete(path)
            with contextlib.suppress(KeyError, TypeError):
                del find(expected, path[:-1])[path[-1]]
        else:
            overlay.assign(path, value)
            below = expected
            for part in path[:-1]:
                if not isinstance(below.get(part), dict):
                    below[part] = {}
                below = below[part]
            below[path[-1]] = copy.deepcopy(value)
    before = copy.deepcopy(stored)
    assert overlay.apply(stored) == expected
    assert stored == before


def test_keys_are_dotted_text_or_tuples():
    assert parse_key("a.b") == ("a", "b")
    assert parse_key(("a.b", "c")) == ("a.b", "c")


def test_properties_and_tags_are_sent_and_read_back_at_once(server, open_run):
    run = open_run(server.url, experiment="e1")
    run.name = "a name"
    run.description = "words"
    run.archived = True
    run.add_tag("good")
    run.remove_tag("bad")
    assert (run.name, run.description, run.experiment) == ("a name", "words", "e1")
    assert run.archived is True
    assert run.active
    run.close()
    assert not run.active
    assert run.end_time >= run.creation_time
    changed = {}
    for event in events(server, "SetProperties"):
        fields = {n: getattr(event, n) for n in event.__struct_fields__}
        changed |= {name: value for name, value in fields.items() if value is not None}
    assert changed == {
        "name": "a name",
        "description": "words",
        "experiment": "e1",
        "archived": True,
    }
    assert [event.name for event in events(server, "AddTag")] == ["good"]
    assert [event.name for event in events(server, "RemoveTag")] == ["bad"]


def test_reading_without_a_server_is_said_and_empty(open_run, capsys):
    run = open_run("http://127.0.0.1:1", "known")
    assert (run.tags, run.props, run.metrics()) == ([], {}, [])
    assert run.name is None
    assert "cannot be read back" in capsys.readouterr().err


def test_log_records_know_their_caller(server, open_run):
    run = open_run(server.url)
    run.log_warning("careful", loss=np.float32(0.5))
    line = sys._getframe().f_lineno - 1
    run.log_error("bad")
    run.close()
    (ref, step, first), (_, _, second) = server.objects("log_records")
    assert (ref.name, step) == ("__log_records", AUTO_STEP)
    assert first["message"] == "careful"
    assert first["log_level"] == 30
    assert first["args"] == {"loss": 0.5}
    assert first["logger_info"] == [__file__, line]
    assert (second["log_level"], second["args"]) == (40, None)


def test_objects_are_stored_whole(server, open_run):
    run = open_run(server.url)
    run.track(Text("half \ud800 pair"), "notes", context={"subset": "val"})
    run.track(Distribution([1, 2, 2, math.nan, math.inf], bin_count=2), "weights")
    run.track(Distribution(hist=[1, 2], bin_range=(0, 1)), "weights")
    run.track(Figure({"data": [], "layout": {}}), "chart", step=4)
    run.close()
    ((ref, _, text),) = server.objects("texts")
    assert (ref.name, ref.context) == ("notes", '{"subset":"val"}')
    assert text["type"] == "text"
    assert text["data"].startswith("half ")
    first, second = server.objects("distributions")
    assert first[2]["data"] == [1.0, 2.0]
    assert first[2]["range"] == [1.0, 2.0]
    assert (first[1], second[1]) == (0, 1)
    assert second[2]["data"] == [1.0, 2.0]
    ((_, step, figure),) = server.objects("figures")
    assert (step, figure["data"]) == (4, {"data": [], "layout": {}})


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (Distribution, TypeError),
        (lambda: Distribution([1], hist=[1]), TypeError),
        (lambda: Distribution([1], bin_count=0), ValueError),
        (lambda: Distribution(hist=[1]), ValueError),
        (lambda: Figure(5), TypeError),
    ],
)
def test_objects_that_make_no_sense_are_refused(make, error):
    with pytest.raises(error):
        make()


class Foreign:
    """An object of another library, told by its module."""


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("plotly.graph_objs._figure", r"plotly.graph_objs._figure.Foreign .* Figure\("),
        ("matplotlib.figure", r"matplotlib.figure.Foreign is tracked as Figure\("),
        ("PIL.Image", r"PIL.Image.Foreign is tracked as Image\("),
    ],
)
def test_objects_of_other_libraries_are_named_with_their_wrapper(
    module, text, open_run, monkeypatch
):
    monkeypatch.setattr(Foreign, "__module__", module)
    with pytest.raises(TypeError, match=text):
        open_run("http://127.0.0.1:1").track(Foreign(), "x")


def test_a_figure_may_hold_arrays(server, open_run):
    run = open_run(server.url)
    run.track(Figure({"data": [{"y": np.array([1.5, 2.5])}]}), "chart")
    run.close()
    ((_, _, figure),) = server.objects("figures")
    assert figure["data"] == {"data": [{"y": [1.5, 2.5]}]}


def test_an_object_too_large_is_refused(open_run):
    run = open_run("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="limit"):
        run.track(Text("x" * 8_000_000), "t")


# The machine.


def test_the_machine_is_sampled(server, open_run):
    run = open_run(server.url, system_tracking_interval=0.1)
    names = {"__system__cpu", "__system__p_memory_percent"}
    names |= {"__system__memory_percent", "__system__disk_percent"}
    assert wait_until(lambda: names <= {point[0] for point in server.points()})
    run.close()


def test_system_parameters_are_stored_without_secrets(server, open_run, monkeypatch):
    monkeypatch.setenv("MY_API_TOKEN", "hidden-value")
    monkeypatch.setenv("PROXY_URL", "http://ann:hidden-value@proxy:1")
    run = open_run(server.url, log_system_params=True)
    run.close()
    (event,) = events(server, "SetAttributes")
    ((path, payload),) = event.assignments
    params = decode_payload(payload)
    assert path == ["__system_params"]
    assert params["executable"] == sys.executable
    assert "msgspec" in params["packages"]
    assert params["env_variables"]["PROXY_URL"] == "http://proxy:1"
    assert b"hidden-value" not in payload


def test_secrets_are_told_by_their_names():
    variables = {"HOME": "/h", "AWS_SECRET_ACCESS_KEY": "x", "Password": "x"}
    assert safe_variables(variables) == {"HOME": "/h"}
    hidden = ("DB_PASS", "GH_PAT", "PASS", "pat", "AZURE_CONN_STR", "MY_JWT", "X_CREDS")
    assert safe_variables(dict.fromkeys(hidden, "x")) == {}
    kept = dict.fromkeys(["PATH", "COMPASS", "PATTERN", "PIN_MEMORY", "N_PASSES"], "x")
    assert safe_variables(kept) == kept
    arguments = ["t.py", "--password", "x", "--api-key=x", "--lr", "0.1", "--token"]
    assert safe_arguments(arguments) == [
        *("t.py", "--password", "***", "--api-key=***"),
        *("--lr", "0.1", "--token"),
    ]


class Unspeakable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_a_log_record_is_kept_whatever_comes_with_it(server, open_run):
    run = open_run(server.url)
    run.log_error("lost", lock=threading.Lock(), step=3, odd=Unspeakable())
    run.close()
    ((_, _, record),) = server.objects("log_records")
    assert record["message"] == "lost"
    assert record["args"]["step"] == 3
    assert record["args"]["lock"].startswith("<unlocked _thread.lock")
    assert record["args"]["odd"] == "<Unspeakable>"


def test_a_run_is_not_pickled_and_says_what_to_do(open_run):
    run = open_run("http://127.0.0.1:1")
    with pytest.raises(TypeError, match=rf"Open Run\('{run.hash}'\) in the other one"):
        pickle.dumps(run)


def test_a_state_directory_that_cannot_be_used_is_said(
    open_run, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("MATYAN_DIR", str(file / "below"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    run = open_run("http://127.0.0.1:1")
    said = capsys.readouterr().err
    assert f"MATYAN_DIR={file / 'below'} cannot be written" in said
    assert str(tmp_path / "temporary") in said
    assert str(run.delivery.journal).startswith(str(tmp_path / "temporary"))


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_process_is_left_as_it_was(server, open_run):
    before = {thread.name for thread in threading.enumerate()}
    descriptors = open_descriptors()
    for _ in range(3):
        run = open_run(server.url)
        run.track(1.0, "x")
        run.close()
    left = {thread.name for thread in threading.enumerate()} - before
    assert not [name for name in left if name.startswith("matyan")]
    assert wait_until(lambda: open_descriptors() <= descriptors + 1)
