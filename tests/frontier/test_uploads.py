"""Blobs received by the gateway: whole ones, parts, and everything that is refused."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from frontier.routing import application

PATH = "/api/v1/rest/artifacts/presign"
BODY = {"run_id": "run", "artifact_path": "dir/model.pt"}
MULTIPART = "/api/v1/rest/artifacts/multipart"
MEBIBYTE = 1 << 20


def files(data_dir: Path) -> list[Path]:
    root = data_dir / "blobs"
    return [path for path in root.rglob("*") if path.is_file()]


def content(data_dir: Path) -> list[bytes]:
    return [p.read_bytes() for p in files(data_dir) if p.suffix == ".data"]


async def granted(client: Any, **fields: Any) -> str:
    answer = (await client.post(PATH, json={**BODY, **fields})).json()
    url: str = answer["upload_url"]
    return url


async def test_a_blob_is_received(http_client, data_dir):
    url = await granted(http_client)
    body = os.urandom(3 * MEBIBYTE + 17)
    response = await http_client.put(url, content=body)
    assert response.status_code == 200
    assert response.json()["size"] == len(body)
    assert response.headers["etag"] == f'"{response.json()["checksum"]}"'
    assert content(data_dir) == [body]


@pytest.mark.parametrize("body", [b"", b"x"])
async def test_small_blobs_with_and_without_a_type(http_client, data_dir, body):
    for headers in ({}, {"content-type": "image/png"}):
        url = await granted(http_client)
        response = await http_client.put(url, content=body, headers=headers)
        assert response.status_code == 200
    assert content(data_dir) == [body, body]


async def test_a_blob_without_an_announced_length_is_received(http_client, data_dir):
    async def pieces() -> Any:
        yield b"abc"
        yield b"def"

    url = await granted(http_client)
    assert (await http_client.put(url, content=pieces())).status_code == 200
    assert content(data_dir) == [b"abcdef"]


@pytest.mark.parametrize("body", [b"1234567890a", b"123456789", b""])
async def test_another_size_than_signed_is_refused(http_client, data_dir, body):
    url = await granted(http_client, size=10)
    response = await http_client.put(url, content=body)
    assert response.status_code == (413 if len(body) > 10 else 400)
    assert response.json()["error"]["code"] in {"blob_too_large", "blob_length"}
    assert files(data_dir) == []


async def test_more_than_signed_is_refused_while_it_comes(
    http_client, data_dir, settings
):
    settings.MATYAN_MAX_UPLOAD_BYTES = MEBIBYTE
    sent = []

    async def endless() -> Any:
        for _ in range(100):
            sent.append(1)
            yield b"x" * (MEBIBYTE // 2)

    response = await http_client.put(await granted(http_client), content=endless())
    assert response.status_code == 413
    assert files(data_dir) == []


@pytest.mark.parametrize("change", ["token", "cut", "other"])
async def test_a_token_nobody_gave_is_refused(http_client, data_dir, change):
    url = await granted(http_client)
    changed = {
        "token": url[:-1] + ("A" if url[-1] != "A" else "B"),
        "cut": url[:-7],
        "other": url.rpartition("/")[0] + "/" + "A" * 60,
    }[change]
    response = await http_client.put(changed, content=b"x")
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "bad_token"
    assert files(data_dir) == []


async def test_a_token_expires(http_client, data_dir, settings):
    settings.MATYAN_UPLOAD_EXPIRY_SECONDS = 0
    response = await http_client.put(await granted(http_client), content=b"x")
    assert response.status_code == 403
    assert "expired" in response.json()["message"]
    assert files(data_dir) == []


async def test_only_put_is_taken(http_client):
    url = await granted(http_client)
    for method in ("GET", "POST", "DELETE"):
        assert (await http_client.request(method, url)).status_code == 405


async def test_a_full_disk_is_told_and_leaves_nothing(
    http_client, data_dir, monkeypatch
):
    url = await granted(http_client)

    def full(_fd: int, _data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    response = await http_client.put(url, content=b"x")
    monkeypatch.undo()
    assert response.status_code == 507
    assert response.json()["message"] == "The blob store is full"
    assert files(data_dir) == []
    assert (await http_client.put(url, content=b"x")).status_code == 200


class Upload:
    """A PUT whose body comes as the test says."""

    def __init__(
        self, url: str, *, length: int | None, address: str = "192.0.2.1"
    ) -> None:
        headers = [] if length is None else [(b"content-length", b"%d" % length)]
        self.scope = {
            "type": "http",
            "method": "PUT",
            "path": httpx.URL(url).path,
            "headers": headers,
            "client": (address, 1),
        }
        self.body: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []

    def send(self, body: bytes, *, more: bool) -> None:
        message = {"type": "http.request", "body": body, "more_body": more}
        self.body.put_nowait(message)

    def disconnect(self) -> None:
        self.body.put_nowait({"type": "http.disconnect"})

    async def wait_read(self) -> None:
        """Return when everything sent so far has been taken."""
        async with asyncio.timeout(10):
            while self.body.qsize():  # noqa: ASYNC110 - a queue tells nobody
                await asyncio.sleep(0.01)

    async def run_with(self, body: bytes) -> int | None:
        self.send(body, more=False)
        return await self.run()

    async def run(self) -> int | None:
        async def send(message: Any) -> None:
            self.sent.append(message)

        await application(None)(self.scope, self.body.get, send)
        return self.sent[0]["status"] if self.sent else None


async def test_a_client_that_goes_away_leaves_nothing(http_client, data_dir):
    upload = Upload(await granted(http_client), length=10)
    upload.send(b"12345", more=True)
    upload.disconnect()
    assert await upload.run() is None
    assert files(data_dir) == []


async def test_a_body_of_another_length_than_announced_is_refused(
    http_client, data_dir
):
    upload = Upload(await granted(http_client), length=10)
    upload.send(b"12345", more=False)
    assert await upload.run() == 400
    assert files(data_dir) == []


async def test_a_body_needs_a_length_or_pieces(http_client):
    assert await Upload(await granted(http_client), length=None).run() == 411


async def test_a_client_that_stops_sending_is_let_go(http_client, data_dir, settings):
    settings.MATYAN_GATEWAY_LIMITS = {"upload_stall_s": 0.05}
    upload = Upload(await granted(http_client), length=10)
    upload.send(b"12345", more=True)
    assert await upload.run() == 408
    assert files(data_dir) == []


async def test_a_server_that_stops_in_the_middle_leaves_nothing(http_client, data_dir):
    upload = Upload(await granted(http_client), length=MEBIBYTE)
    upload.send(b"x" * (MEBIBYTE - 1), more=True)
    task = asyncio.create_task(upload.run())
    await upload.wait_read()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(data_dir) == []


async def test_uploads_over_the_limit_wait_unread(http_client, data_dir, settings):
    settings.MATYAN_GATEWAY_LIMITS = {"uploads": 1}
    first, second = [
        Upload(await granted(http_client, artifact_path=name), length=2)
        for name in "ab"
    ]
    first.send(b"1", more=True)
    running = asyncio.create_task(first.run())
    await first.wait_read()
    second.send(b"22", more=False)
    waiting = asyncio.create_task(second.run())
    await asyncio.sleep(0.05)
    assert (second.body.qsize(), waiting.done()) == (1, False)
    first.send(b"1", more=False)
    assert await asyncio.gather(running, waiting) == [200, 200]
    assert sorted(content(data_dir)) == [b"11", b"22"]


async def begun(client: Any, name: str, address: str) -> tuple[Upload, Any]:
    """Return an upload of two bytes whose first has been taken."""
    url = await granted(client, artifact_path=name)
    upload = Upload(url, length=2, address=address)
    upload.send(b"1", more=True)
    running = asyncio.create_task(upload.run())
    await upload.wait_read()
    return upload, running


async def test_an_address_takes_one_upload_at_a_time(http_client, data_dir):
    url = await granted(http_client)
    first, second = Upload(url, length=2), Upload(url, length=1)
    first.send(b"1", more=True)
    running = asyncio.create_task(first.run())
    await first.wait_read()
    second.send(b"2", more=False)
    assert await second.run() == 409
    assert second.body.qsize() == 1
    first.send(b"1", more=False)
    assert await running == 200
    assert content(data_dir) == [b"11"]


async def test_one_client_does_not_take_all_slots(http_client, settings):
    settings.MATYAN_GATEWAY_LIMITS = {"uploads": 3, "uploads_per_address": 2}
    held = [await begun(http_client, name, "192.0.2.1") for name in "ab"]
    third = Upload(await granted(http_client, artifact_path="c"), length=2)
    third.send(b"33", more=False)
    waiting = asyncio.create_task(third.run())
    upload, running = await begun(http_client, "d", "192.0.2.2")
    assert (third.body.qsize(), waiting.done()) == (1, False)
    for one, _ in (*held, (upload, running)):
        one.send(b"1", more=False)
    tasks = [task for _, task in held]
    assert await asyncio.gather(*tasks, running, waiting) == [200] * 4


@pytest.mark.parametrize("limit", [{"upload_wait_s": 0.0}, {"uploads_waiting": 0}])
async def test_who_waits_too_long_is_told_when_to_come_back(
    http_client, settings, limit
):
    settings.MATYAN_GATEWAY_LIMITS = {"uploads": 1, **limit}
    first, running = await begun(http_client, "a", "192.0.2.1")
    second = Upload(await granted(http_client, artifact_path="b"), length=1)
    second.send(b"2", more=False)
    assert await second.run() == 503
    assert (b"retry-after", b"5") in second.sent[0]["headers"]
    first.send(b"1", more=False)
    assert await running == 200
    assert await Upload(await granted(http_client), length=0).run_with(b"") == 200


async def test_who_goes_away_while_waiting_holds_nothing(http_client, settings):
    settings.MATYAN_GATEWAY_LIMITS = {"uploads": 1}
    first, running = await begun(http_client, "a", "192.0.2.1")
    second = Upload(await granted(http_client, artifact_path="b"), length=1)
    waiting = asyncio.create_task(second.run())
    await asyncio.sleep(0)
    waiting.cancel()
    first.send(b"1", more=False)
    assert await running == 200
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await Upload(await granted(http_client), length=0).run_with(b"") == 200


async def test_a_sender_has_a_least_rate(http_client, data_dir, settings):
    settings.MATYAN_GATEWAY_LIMITS = {
        "upload_stall_s": 0.1,
        "upload_bytes_per_s": 1e9,
    }
    upload = Upload(await granted(http_client), length=10_000)
    running = asyncio.create_task(upload.run())
    while not running.done():
        upload.send(b"x", more=True)
        await asyncio.sleep(0.01)
    assert await running == 408
    assert files(data_dir) == []


async def test_a_token_nobody_gave_does_not_wait(http_client, settings):
    settings.MATYAN_GATEWAY_LIMITS = {"uploads": 1}
    first, running = await begun(http_client, "a", "192.0.2.1")
    forged = Upload("/api/v1/blobs/upload/" + "A" * 60, length=1)
    assert await forged.run() == 403
    first.send(b"1", more=False)
    assert await running == 200


# --- in parts ------------------------------------------------------------------------


@pytest.fixture
async def parts(http_client: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An upload of 2.5 parts of 1 MiB, begun."""
    monkeypatch.setattr("frontier.presign.MIN_PART_BYTES", MEBIBYTE)
    return await Parts.begin(http_client, os.urandom(MEBIBYTE * 5 // 2))


class Parts:
    def __init__(self, client: Any, body: bytes, answer: Any) -> None:
        self.client = client
        self.body = body
        self.answer = answer

    @classmethod
    async def begin(cls, client: Any, body: bytes) -> Parts:
        fields = {**BODY, "size": len(body), "multipart": True}
        return cls(client, body, (await client.post(PATH, json=fields)).json())

    async def call(self, route: str, **fields: Any) -> Any:
        upload = self.answer["multipart"]["upload"]
        return await self.client.post(
            f"{MULTIPART}/{route}", json={"upload": upload, **fields}
        )

    async def send(self, number: int) -> int:
        size = self.answer["multipart"]["part_bytes"]
        piece = self.body[(number - 1) * size : number * size]
        ticket = (await self.call("sign", number=number)).json()
        return (await self.client.put(ticket["upload_url"], content=piece)).status_code


async def test_a_large_blob_comes_in_parts(parts, data_dir):
    assert parts.answer["upload_url"] is None
    assert parts.answer["s3_key"] == "run/dir/model.pt"
    assert parts.answer["multipart"]["count"] == 3
    for number in (2, 3):
        assert await parts.send(number) == 200
    assert (await parts.call("parts")).json()["parts"] == [2, 3]
    assert (await parts.call("complete")).status_code == 400
    assert await parts.send(1) == 200
    for _ in range(2):
        response = await parts.call("complete")
        assert response.json()["size"] == len(parts.body)
    assert content(data_dir) == [parts.body]
    assert (await parts.call("parts")).status_code == 404


async def test_parts_are_bounded(parts):
    for number in (0, 4, None):
        response = await parts.call("sign", number=number)
        assert response.status_code == 422
    ticket = (await parts.call("sign", number=3)).json()
    response = await parts.client.put(ticket["upload_url"], content=b"x" * MEBIBYTE)
    assert response.status_code == 413


async def test_parts_are_forgotten_when_aborted(parts, data_dir):
    await parts.send(1)
    for _ in range(2):
        assert (await parts.call("abort")).status_code == 200
    assert files(data_dir) == []
    assert await parts.send(2) == 404


async def test_an_upload_nobody_began_is_refused(http_client):
    for route in ("sign", "parts", "complete", "abort"):
        response = await http_client.post(
            f"{MULTIPART}/{route}", json={"upload": "A" * 60, "number": 1}
        )
        assert response.status_code == 403
        response = await http_client.post(f"{MULTIPART}/{route}", json={})
        assert response.status_code == 422


async def test_a_small_blob_comes_at_once_whatever_was_asked(http_client):
    answer = (
        await http_client.post(PATH, json={**BODY, "size": 5, "multipart": True})
    ).json()
    assert answer["multipart"] is None
    assert (
        await http_client.put(answer["upload_url"], content=b"12345")
    ).status_code == 200
