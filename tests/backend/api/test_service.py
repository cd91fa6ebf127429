"""The service itself: version, health, metrics, errors, origins, addresses."""

import json
import re

import pytest
from django.test import Client
from django.urls import get_resolver

REST = "/api/v1/rest"


@pytest.fixture
def client(runtime):
    return Client()


ENDPOINTS = [
    "/api/v1/rest/version",
    "/api/v1/rest/projects",
    "/api/v1/rest/projects/activity",
    "/api/v1/rest/projects/params",
    "/api/v1/rest/projects/pinned-sequences",
    "/api/v1/rest/projects/status",
    "/api/v1/rest/experiments",
    "/api/v1/rest/tags",
    "/api/v1/rest/dashboards",
    "/api/v1/rest/apps",
    "/api/v1/rest/reports",
    "/api/v1/rest/runs/search/run",
    "/api/v1/rest/runs/search/metric",
    "/api/v1/rest/runs/active",
    "/api/v1/rest/runs/none/logs",
    "/api/v1/rest/runs/none/log-records",
    "/api/v1/rest",
    "/api/v1/schema",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/api/metrics",
]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_both_slash_forms_answer_without_redirect(client, path):
    assert client.get(path).status_code == 200
    assert client.get(f"{path}/").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_changes_to_unknown_addresses_are_not_found(runtime, method):
    client = Client(enforce_csrf_checks=True)
    for path in ("/api/nope", f"{REST}/runs/a/b/c/d", f"{REST}/nope/"):
        answer = client.generic(method, path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"


def test_missing_csrf_token_is_json_for_programs_and_a_page_for_people(runtime):
    client = Client(enforce_csrf_checks=True)
    answer = client.post("/api/metrics")
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "forbidden"
    page = client.post("/sign-in")
    assert page.status_code == 403
    assert page.headers["Content-Type"].startswith("text/html")


def test_double_slashes_are_one(client):
    assert client.get("/api/v1/rest//version").json()["component"] == "backend"
    assert client.get("/api//v1/rest/tags//").json() == []


def test_version_tells_where_the_gateway_is(client, settings):
    settings.MATYAN_GATEWAY_SAME_ORIGIN = False
    settings.MATYAN_FRONTIER_PORT = 4711

    assert client.get(f"{REST}/version/").json() == {
        "version": settings.MATYAN_VERSION,
        "component": "backend",
        "fdb_api_version": 730,
        "gateway": {"same_origin": False, "port": 4711},
    }


def test_ready_says_what_is_checked(client):
    assert client.get("/health/live/").json() == {"status": "ok"}
    answer = client.get("/health/ready/")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["checks"]["fdb"] == "ok"
    assert answer.json()["checks"]["kafka"] == {
        "control_producer": True,
        "ingestion_producer": True,
    }


def test_ready_is_degraded_while_the_store_is_not_there(client, runtime, monkeypatch):
    from backend.errors import StoreUnavailableError

    def fail():
        raise StoreUnavailableError(reason="tested")

    monkeypatch.setattr(runtime, "get_store", fail)

    answer = client.get("/health/ready/")

    assert answer.status_code == 503
    assert answer.json()["status"] == "degraded"
    assert answer.json()["checks"]["store"] == StoreUnavailableError.message
    assert "tested" not in answer.content.decode()
    assert client.get("/health/live/").status_code == 200


def test_a_store_that_fails_is_a_503_that_says_so(client, runtime, monkeypatch):
    from backend.errors import StoreUnavailableError

    def fail():
        raise StoreUnavailableError(reason="tested")

    monkeypatch.setattr(runtime, "get_store", fail)

    for path in ("experiments", "runs/search/run", "runs/active", "runs/r/info"):
        answer = client.get(f"{REST}/{path}")
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "store_unavailable"
        assert answer.json()["message"] == "The store is unavailable"


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/api/metrics/"])
def test_prometheus_reads_what_is_counted(client, path):
    client.get(f"{REST}/version")

    page = client.get(path).content.decode()

    assert re.search(
        r'matyan_backend_http_requests_total\{method="GET",'
        r'route="[^"]*version[^"]*",status="200"\} \d',
        page,
    )


def test_in_a_browser_metrics_is_not_prometheus(client):
    answer = client.get("/metrics/", headers={"Accept": "text/html,*/*"})

    assert "matyan_backend" not in answer.content.decode()
    assert (
        client.get("/api/metrics", headers={"Accept": "text/html"}).status_code == 200
    )


@pytest.mark.parametrize(
    "path", ["/api", "/api/v1", "/api/v1/rest/boards", "/api/v1/rest/runs/a/b/c/d"]
)
def test_an_unknown_address_is_a_json_404(client, path):
    answer = client.get(path)

    assert answer.status_code == 404
    assert answer.json() == {
        "message": "Not Found",
        "detail": "Not Found",
        "error": {"code": "not_found", "message": "Not Found"},
    }


def test_an_unknown_address_outside_the_api_is_json_too(client):
    answer = client.get("/nowhere", headers={"accept": "application/json"})

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_a_wrong_method_is_a_json_405(client):
    answer = client.post(f"{REST}/version")

    assert answer.status_code == 405
    assert answer.json() == {
        "message": "Method Not Allowed",
        "detail": "Method Not Allowed",
        "error": {"code": "method_not_allowed", "message": "Method Not Allowed"},
    }


def test_a_crash_is_a_json_500_that_tells_nothing(client, runtime, monkeypatch):
    def crash():
        message = "secret"
        raise RuntimeError(message)

    monkeypatch.setattr(runtime, "get_store", crash)
    client.raise_request_exception = False

    answer = client.get(f"{REST}/tags")

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.content.decode()


def post(client, path, body, **headers):
    return client.generic(
        "POST", f"{REST}/{path}", body, "application/json", headers=headers
    )


def test_a_body_that_is_no_json_is_refused(client):
    answer = post(client, "tags", "{no")

    assert answer.status_code == 400
    assert "not JSON" in answer.json()["message"]


@pytest.mark.parametrize(
    "body", [b'{"name": "\xff"}', "[" * 100_000, '{"a":' * 30_000, b"\xff\xfe{"]
)
@pytest.mark.parametrize("path", ["tags", "reports", "runs/delete-batch"])
def test_a_body_that_cannot_be_read_is_refused(client, path, body):
    answer = post(client, path, body)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_request"


@pytest.mark.parametrize(
    "path",
    [
        f"runs/{'a' * 5_000}/info",
        f"runs/{'%00' * 5_000}/info",
        f"runs/{'%C3%A9' * 100}/info",
        f"runs/{'a' * 5_000}/durable?writer=w",
        f"tags/{'a' * 5_000}",
    ],
)
def test_an_id_too_long_to_be_one_is_not_found(client, path):
    answer = client.get(f"{REST}/{path}")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_ranges_may_have_any_number_of_digits(client):
    digits = "9" * 5_000

    for steps in (f"{digits}:", f"-{digits}:{digits}"):
        answer = client.get(f"{REST}/runs/search/images?record_range={steps}")
        assert answer.status_code == 200


def test_a_body_over_the_limit_is_refused(client, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000

    answer = post(client, "tags", json.dumps({"name": "x" * 1000}))

    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "payload_too_large"


def test_a_body_of_another_type_is_refused(client):
    answer = client.generic("POST", f"{REST}/tags", "a=1", "text/plain")

    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_media_type"


def test_pages_of_other_sites_change_nothing(client):
    body = json.dumps({"name": "x"})

    foreign = post(client, "tags", body, Origin="https://evil.example")
    hidden = post(client, "tags", body, Origin="null")
    reading = client.get(f"{REST}/tags", headers={"Origin": "https://evil.example"})
    own = post(client, "tags", body, Origin="http://testserver")

    assert foreign.status_code == hidden.status_code == 403
    assert foreign.json()["error"]["code"] == "forbidden"
    assert reading.json() == []
    assert own.status_code == 200


def test_pages_of_known_origins_may_call(client, settings):
    settings.CORS_ORIGINS = ["http://localhost:3000"]
    origin = {"Origin": "http://localhost:3000"}
    asked = {
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "content-type,x-timezone-offset",
    }

    preflight = client.options(f"{REST}/tags", headers={**origin, **asked})
    answer = post(client, "tags", json.dumps({"name": "x"}), **origin)
    refused = client.options(
        f"{REST}/tags", headers={"Origin": "https://evil.example", **asked}
    )

    assert preflight.status_code == 200
    assert "PUT" in preflight.headers["Access-Control-Allow-Methods"]
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
    assert {"content-type", "x-timezone-offset", "authorization"} <= set(
        allowed.split(", ")
    )
    for response in (preflight, answer):
        assert response.headers["Access-Control-Allow-Origin"] == origin["Origin"]
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
        assert "Origin" in response.headers["Vary"]
    assert answer.status_code == 200
    assert refused.status_code == 400
    assert "Access-Control-Allow-Origin" not in refused.headers


def test_requests_have_an_id(client):
    given = client.get("/health/live", headers={"X-Request-ID": "abc-1"})
    made = client.get("/health/live", headers={"X-Request-ID": "no\tgood"})

    assert given.headers["X-Request-ID"] == "abc-1"
    assert re.fullmatch("[0-9a-f]{32}", made.headers["X-Request-ID"])


def test_any_accept_header_gets_json(client):
    for accept in ("application/octet-stream", "text/plain", "*/*", "image/png"):
        answer = client.get(f"{REST}/version", headers={"Accept": accept})
        assert answer.headers["Content-Type"] == "application/json"


def test_browsers_get_a_page_to_browse(client):
    client.generic("POST", f"{REST}/tags", '{"name":"t"}', "application/json")
    for path in ("", "/tags", "/experiments", "/projects", "/version", "/apps"):
        answer = client.get(f"{REST}{path}", headers={"Accept": "text/html"})
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/html")


def test_every_route_is_in_the_schema(client):
    schema = client.get("/api/v1/schema/?format=json").json()
    described = {
        re.sub(r"\{[^}]*\}", "*", path).rstrip("/") for path in schema["paths"]
    }

    missing = [path for path in rest_routes() if path not in described]

    assert missing == []
    assert len(described) > 30


def test_every_operation_is_described(client):
    schema = client.get("/api/v1/schema/?format=json").json()

    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert operation.get("description"), (method, path)
            assert operation["responses"], (method, path)
            names = {one["name"] for one in operation.get("parameters", ())}
            assert names >= set(re.findall(r"\{(\w+)\}", path)), (method, path)


def test_streams_and_refusals_are_described_as_they_are(client):
    schema = client.get("/api/v1/schema/?format=json").json()
    rest = "/api/v1/rest/runs"

    for path, method in {
        "search/run/": "get",
        "search/metric/": "get",
        "search/metric/align/": "post",
        "active/": "get",
        "{run_id}/logs/": "get",
        "{run_id}/{kind}/get-step/": "post",
        "{kind}/get-batch/": "post",
    }.items():
        responses = schema["paths"][f"{rest}/{path}"][method]["responses"]
        assert list(responses["200"]["content"]) == ["application/octet-stream"], path
        assert {"400", "422"} <= set(responses), path
    batch = schema["paths"][f"{rest}/{{run_id}}/metric/get-batch/"]["post"]
    assert {"200", "400", "404", "422"} <= set(batch["responses"])


def rest_routes():
    """Return every REST address, its parameters as stars."""
    found = set()
    for pattern in get_resolver().url_patterns:
        for route in flatten(pattern, ""):
            if route.startswith("^api/v1/rest/^") and "root" not in route:
                path = re.sub(r"\(\?P<\w+>[^)]+\)", "*", route)
                path = path.replace("^", "").replace("$", "").replace("/?", "")
                if path != "api/v1/rest/":
                    found.add("/" + path)
    return sorted(found)


def flatten(pattern, prefix):
    route = prefix + str(pattern.pattern)
    if hasattr(pattern, "url_patterns"):
        for child in pattern.url_patterns:
            yield from flatten(child, route)
    else:
        yield route
