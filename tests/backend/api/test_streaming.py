"""Streaming responses: early first bytes, work that stops, failures that show."""

import asyncio
import threading

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.test import AsyncClient, Client
from django.urls import path
from rest_framework.request import Request
from rest_framework.views import APIView

from backend.api.streaming import Progress, stream_response
from matyan_wire.tree_stream import iter_trees

WAIT_S = 10


class Source:
    """An endless stream of frames that records what becomes of it."""

    def __init__(self, frames=None):
        self.frames = frames
        self.made = 0
        self.closed = threading.Event()
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(1_000_000)

    def __iter__(self):
        try:
            while self.frames is None or self.made < len(self.frames):
                self.begun.release()
                assert self.gate.acquire(timeout=WAIT_S)
                frame = b"frame" if self.frames is None else self.frames[self.made]
                self.made += 1
                if isinstance(frame, Exception):
                    raise frame
                yield frame
        finally:
            self.closed.set()


class StreamView(APIView):
    authentication_classes = permission_classes = ()
    source = None

    def get(self, request: Request):
        return stream_response(request, iter(StreamView.source))


urlpatterns = [path("stream", StreamView.as_view())]


@pytest.fixture
def serve(settings):
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [
        "backend.api.middleware.RequestIdMiddleware",
        "backend.api.middleware.PathMiddleware",
        "backend.api.middleware.CorsMiddleware",
    ]

    def use(source):
        StreamView.source = source
        return source

    return use


def asgi_request():
    return ApplicationCommunicator(
        ASGIHandler(),
        {
            "type": "http",
            "method": "GET",
            "path": "/stream",
            "query_string": b"",
            "headers": [],
        },
    )


async def start(communicator):
    await communicator.send_input({"type": "http.request", "body": b""})
    message = await communicator.receive_output(WAIT_S)
    assert message["type"] == "http.response.start"
    return message


def test_sync_server_gets_every_frame(serve):
    source = serve(Source([b"a", b"", b"b", b"c"]))

    response = Client().get("/stream")

    assert response.getvalue() == b"abc"
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert source.closed.is_set()


async def test_async_server_gets_every_frame(serve):
    source = serve(Source([b"a", b"", b"b", b"c"]))

    response = await AsyncClient().get("/stream")

    assert b"".join([chunk async for chunk in response]) == b"abc"
    assert source.closed.is_set()


async def test_an_empty_stream_is_an_empty_body(serve):
    serve(Source([]))

    response = await AsyncClient().get("/stream")

    assert [chunk async for chunk in response] == []


async def test_first_frame_leaves_before_the_second_is_made(serve):
    source = serve(Source())
    source.gate = threading.Semaphore(1)
    request = asgi_request()

    await start(request)
    message = await request.receive_output(WAIT_S)

    assert message["body"] == b"frame"
    assert source.made == 1
    source.gate.release(1000)
    await request.send_input({"type": "http.disconnect"})
    await request.wait(WAIT_S)


async def test_disconnect_stops_the_work(serve):
    source = serve(Source())
    request = asgi_request()
    await start(request)
    await request.receive_output(WAIT_S)

    await request.send_input({"type": "http.disconnect"})
    await request.wait(WAIT_S)

    assert await asyncio.to_thread(source.closed.wait, WAIT_S)


async def test_disconnect_in_the_middle_of_a_step_stops_after_it(serve):
    source = serve(Source())
    source.gate = threading.Semaphore(1)
    request = asgi_request()
    await start(request)
    await request.receive_output(WAIT_S)
    for _ in range(2):
        assert await asyncio.to_thread(source.begun.acquire, timeout=WAIT_S)

    await request.send_input({"type": "http.disconnect"})
    await request.wait(WAIT_S)
    assert not source.closed.is_set()
    source.gate.release()

    assert await asyncio.to_thread(source.closed.wait, WAIT_S)
    assert source.made <= 2


def test_a_failure_before_the_first_frame_is_not_a_stream(serve):
    serve(Source([ZeroDivisionError("early")]))

    with pytest.raises(ZeroDivisionError, match="early"):
        Client().get("/stream")


async def test_a_later_failure_breaks_the_connection_off(serve):
    source = serve(Source([b"a", ZeroDivisionError("late")]))
    request = asgi_request()
    await start(request)

    with pytest.raises(ZeroDivisionError, match="late"):
        await request.wait(WAIT_S)

    assert source.closed.is_set()


def test_progress_frames_are_numbered_and_paced():
    progress = Progress(wanted=True)

    body = progress.frame(0, 2) + progress.heartbeat(1, 2) + progress.frame(2, 2)

    assert list(iter_trees([body])) == [("progress_0", [0, 2]), ("progress_1", [2, 2])]


def test_unwanted_progress_is_nothing():
    progress = Progress(wanted=False)

    assert progress.frame(0, 2) + progress.heartbeat(1, 2) == b""
