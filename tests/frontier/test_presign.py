"""Where uploads may go: the answers of the presign routes."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from backend.blobs.signing import UploadTokens
from backend.domain.blobs import split_blob_key
from backend.errors import EventLogUnavailableError
from frontier import presign
from matyan_wire import batch as wire
from tests.frontier.conftest import taken

PATH = "/api/v1/rest/artifacts/presign"
BODY = {"run_id": "run", "artifact_path": "dir/model.pt"}


async def test_an_upload_is_allowed_and_noted(http_client, scripted_log, settings):
    response = await http_client.post(PATH, json=BODY)
    assert response.status_code == 200
    answer = response.json()
    assert answer["s3_key"] == "run/dir/model.pt"
    assert (answer["headers"], answer["multipart"]) == (None, None)
    base, _, token = answer["upload_url"].rpartition("/")
    assert base == "http://gateway:53801/api/v1/blobs/upload"
    grant = UploadTokens(settings.MATYAN_BLOB_SECRET).decode(token, now_us=0)
    assert grant.max_bytes == settings.MATYAN_MAX_UPLOAD_BYTES
    (batch,) = taken(scripted_log)
    (event,) = batch.events
    run_id, _, blob_id = split_blob_key(grant.key)
    assert (batch.run_id, run_id) == ("run", "run")
    assert event == wire.BlobGrant("dir/model.pt", blob_id)


@pytest.mark.parametrize(
    "path", [PATH, f"{PATH}/", f"/{PATH}", PATH.replace("/rest", "//rest")]
)
async def test_slashes_do_not_matter(http_client, path):
    response = await http_client.post(httpx.URL("http://gateway", path=path), json=BODY)
    assert response.status_code == 200


async def test_every_upload_of_a_path_is_another(http_client, scripted_log):
    answers = [(await http_client.post(PATH, json=BODY)).json() for _ in range(3)]
    assert len({answer["upload_url"] for answer in answers}) == 3
    ids = [batch.events[0].blob_id for batch in taken(scripted_log)]
    assert ids == sorted(set(ids))


async def test_grants_are_noted_in_the_order_of_the_requests(http_client, scripted_log):
    paths = [f"seq/img/{number}.png" for number in range(20)]
    await asyncio.gather(
        *(
            http_client.post(PATH, json={"run_id": "run", "artifact_path": path})
            for path in paths
        )
    )
    assert [batch.events[0].path for batch in taken(scripted_log)] == paths


@pytest.mark.parametrize(
    ("settings_", "headers", "prefix", "expected"),
    [
        ({}, {"host": "a.example:81"}, "", "http://a.example:81"),
        ({}, {"host": "[::1]:81"}, "", "http://[::1]:81"),
        ({}, {"host": "h"}, "/some/where", "http://h/some/where"),
        ({}, {"host": "h", "x-forwarded-host": "evil"}, "", "http://h"),
        (
            {"MATYAN_PUBLIC_URL": "https://matyan.example/x/"},
            {"host": "h"},
            "/p",
            "https://matyan.example/x",
        ),
        (
            {"MATYAN_TRUST_FORWARDED": True},
            {
                "host": "h",
                "x-forwarded-host": "outside.example, h",
                "x-forwarded-proto": "https",
                "x-forwarded-prefix": "/p/",
            },
            "",
            "https://outside.example/p",
        ),
        ({"MATYAN_TRUST_FORWARDED": True}, {"host": "h"}, "", "http://h"),
    ],
)
async def test_the_address_is_the_one_the_client_can_reach(
    http_client, settings, settings_, headers, prefix, expected
):
    for name, value in settings_.items():
        setattr(settings, name, value)
    response = await http_client.post(prefix + PATH, json=BODY, headers=headers)
    assert response.json()["upload_url"].startswith(f"{expected}/api/v1/blobs/upload/")


@pytest.mark.parametrize("host", ["bad host", "a/b", "a:b", "other.example"])
async def test_a_host_that_is_not_ours_is_refused(http_client, settings, host):
    settings.ALLOWED_HOSTS = ["gateway", "a"]
    response = await http_client.post(PATH, json=BODY, headers={"host": host})
    assert response.status_code == 400
    assert response.json()["message"] == "Bad request"


@pytest.mark.parametrize(
    ("body", "place", "kind"),
    [
        ({"artifact_path": "a"}, ["body", "run_id"], "missing"),
        ({"run_id": "r"}, ["body", "artifact_path"], "missing"),
        ({**BODY, "run_id": 5}, ["body", "run_id"], "string_type"),
        ({**BODY, "run_id": "a/b"}, ["body", "run_id"], "value_error"),
        ({**BODY, "run_id": ".."}, ["body", "run_id"], "value_error"),
        ({**BODY, "artifact_path": "../x"}, ["body", "artifact_path"], "value_error"),
        ({**BODY, "artifact_path": "a/../../b"}, ["body", "artifact_path"], None),
        ({**BODY, "artifact_path": "/abs"}, ["body", "artifact_path"], None),
        ({**BODY, "artifact_path": ""}, ["body", "artifact_path"], None),
        ({**BODY, "artifact_path": "a\nb"}, ["body", "artifact_path"], None),
        ({**BODY, "artifact_path": "a" * 1025}, ["body", "artifact_path"], None),
        ({**BODY, "artifact_path": "\ud800"}, ["body", "artifact_path"], None),
        ({**BODY, "artifact_path": "./."}, ["body", "artifact_path"], None),
        ({**BODY, "content_type": "a\r\nb: c"}, ["body", "content_type"], None),
        ({**BODY, "size": -1}, ["body", "size"], "int_type"),
        ({**BODY, "size": "x"}, ["body", "size"], "int_type"),
        ([], ["body"], "dict_type"),
    ],
)
async def test_what_cannot_be_meant_is_named(
    http_client, scripted_log, body, place, kind
):
    response = await http_client.post(PATH, content=json.dumps(body))
    assert response.status_code == 422
    answer = response.json()
    found = next(item for item in answer["detail"] if item["loc"] == place)
    assert kind is None or found["type"] == kind
    assert set(found) == {"type", "loc", "msg", "input"}
    assert answer["error"]["code"] == "validation_error"
    assert answer["message"]
    assert taken(scripted_log) == []


async def test_a_body_that_is_no_json_is_refused(http_client):
    response = await http_client.post(PATH, content=b"{")
    assert response.status_code == 422
    assert response.json()["detail"][0]["type"] == "json_invalid"
    response = await http_client.post(PATH, content=b" " * 100_000)
    assert response.status_code == 413


@pytest.mark.parametrize("route", ["presign", "multipart/sign"])
@pytest.mark.parametrize(
    "body", ["[" * 60_000, '{"a":' * 12_000, "[" * 900 + "]" * 900, b'"\xff"']
)
async def test_a_body_nobody_can_read_is_refused(http_client, route, body):
    response = await http_client.post(PATH.replace("presign", route), content=body)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "validation_error"


async def test_a_fault_of_ours_is_told_as_json(http_client, monkeypatch):
    def fail(_):
        raise RuntimeError

    monkeypatch.setattr("frontier.presign.read_presign_body", fail)
    response = await http_client.post(PATH, json=BODY)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"


async def test_a_path_is_normal_in_the_log_and_untouched_in_the_answer(
    http_client, scripted_log
):
    response = await http_client.post(
        PATH, json={**BODY, "artifact_path": "seq//a/./0.png"}
    )
    assert response.json()["s3_key"] == "run/seq//a/./0.png"
    assert taken(scripted_log)[0].events[0].path == "seq/a/0.png"


async def test_too_large_a_file_is_refused_before_it_is_sent(http_client, settings):
    settings.MATYAN_MAX_UPLOAD_BYTES = 100
    assert (await http_client.post(PATH, json={**BODY, "size": 100})).status_code == 200
    response = await http_client.post(PATH, json={**BODY, "size": 101})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "limit_exceeded"


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "DELETE"])
async def test_other_methods_are_refused(http_client, method):
    assert (await http_client.request(method, PATH)).status_code == 405


async def test_everything_else_is_handed_on(http_client):
    for path in ("/api/v1/rest/artifacts", "/", f"{PATH}/x"):
        assert (await http_client.post(path, json=BODY)).status_code == 418
    path = "/api/v1/rest/artifacts/multipart/nonsense"
    assert (await http_client.post(path, json=BODY)).status_code == 404


async def test_a_log_that_recovers_is_waited_for(http_client, scripted_log):
    scripted_log.errors = [EventLogUnavailableError(reason="scripted")] * 2
    response = await http_client.post(PATH, json=BODY)
    assert response.status_code == 200
    assert len(taken(scripted_log)) == 1


async def test_without_the_log_no_upload_is_allowed(
    http_client, scripted_log, monkeypatch
):
    monkeypatch.setattr(presign, "_HOLD_S", 0.2)
    scripted_log.refuse = True
    response = await http_client.post(PATH, json=BODY)
    assert response.status_code == 503
    assert "try again" in response.json()["message"]


async def test_a_blob_store_that_cannot_be_opened_is_told_of(http_client, settings):
    settings.MATYAN_BLOBS = {"ENGINE": "backend.blobs.none.Store"}
    response = await http_client.post(PATH, json=BODY)
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "blob_store_error"
