"""The API on an ASGI server: early bytes, proper errors, work that stops."""

import asyncio

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.test import AsyncClient

from backend.api import search_frames
from backend.api.observability import STREAMS_OPEN
from matyan_wire.tree_stream import iter_trees

REST = "/api/v1/rest"
WAIT_S = 20


@pytest.fixture
def runs(writer):
    for number in range(40):
        writer.run(f"r{number:02}", second=number)
        writer.metrics(f"r{number:02}", [("loss", None, [1.0]), ("acc", None, [2.0])])


async def get(path):
    return await AsyncClient().get(f"{REST}/{path}")


async def trees(path):
    response = await get(path)
    assert response.status_code == 200
    assert response.is_async
    return list(iter_trees([chunk async for chunk in response]))


@pytest.mark.parametrize("kind", ["run", "metric"])
async def test_searches_stream(runs, kind):
    found = dict(await trees(f"runs/search/{kind}?q=&report_progress=0"))

    assert list(found) == [f"r{number:02}" for number in reversed(range(40))]


async def test_other_streams(runs):
    assert len(await trees("runs/active?report_progress=0")) == 40
    assert await trees("runs/r01/logs") == []
    assert await trees("runs/r01/log-records") == [("log_records_count", 0)]


async def test_json_endpoints_answer_too(runs):
    response = await get("runs/r01/info/")

    assert response.json()["traces"]["metric"][0]["name"] == "loss"


async def test_a_bad_query_is_a_400(runs):
    response = await get("runs/search/metric?q=a b")

    assert response.status_code == 400
    assert response.json()["detail"]["offset"] == 2


def search_request():
    return ApplicationCommunicator(
        ASGIHandler(),
        {
            "type": "http",
            "method": "GET",
            "path": f"{REST}/runs/search/metric",
            "query_string": b"q=",
            "headers": [(b"host", b"testserver")],
        },
    )


async def test_the_first_progress_frame_is_a_chunk_of_its_own(runs):
    request = search_request()
    await request.send_input({"type": "http.request", "body": b""})

    head = await request.receive_output(WAIT_S)
    body = await request.receive_output(WAIT_S)

    assert head["status"] == 200
    assert list(iter_trees([body["body"]])) == [("progress_0", [0, 40])]
    await request.send_input({"type": "http.disconnect"})
    await request.wait(WAIT_S)


async def test_a_reader_that_leaves_stops_the_search(runs, monkeypatch, store):
    monkeypatch.setattr(search_frames, "GROUP_SERIES", 2)
    read = []
    sample = store.series.sample_points

    def counted(tr, run_number, *args, **kwargs):
        read.append(run_number)
        return sample(tr, run_number, *args, **kwargs)

    monkeypatch.setattr(store.series, "sample_points", counted)
    open_before = STREAMS_OPEN._value.get()
    request = search_request()
    await request.send_input({"type": "http.request", "body": b""})
    for _ in range(3):
        await request.receive_output(WAIT_S)

    await request.send_input({"type": "http.disconnect"})
    await request.wait(WAIT_S)
    async with asyncio.timeout(WAIT_S):
        while STREAMS_OPEN._value.get() != open_before:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)  # closing waits for the step in hand

    assert 0 < len(read) < 40


async def test_a_page_of_another_site_changes_nothing(runs):
    response = await AsyncClient().delete(
        f"{REST}/runs/r01", headers={"Origin": "https://evil.example"}
    )

    assert response.status_code == 403
    assert (await get("runs/r01/info")).status_code == 200
