"""The web UI at `/`: its page, its files, and what stands in for it."""

import base64
import gzip
import hashlib
import re
import sys
from pathlib import Path

import pytest
from django.http import HttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory

from backend.api import static_files
from backend.api.static_files import StaticFilesMiddleware
from backend.api.web_ui import index, package
from matyan_project import env

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}

TEMPLATE = """<!doctype html><html><head>
<script src="https://cdn.example/pyodide/v1/full/pyodide.js"></script>
<script>document.write('<div></div>')</script>
<link rel="stylesheet" href="{{ base_path }}/static-files/own.css"/>
<link rel="stylesheet" href="https://fonts.example/icon?family=Icons"/>
<script>window.API_BASE_PATH="{{ base_path }}",window.SUFFIX="{{ api_base_path }}",
window.API_HOST_BASE="{{ api_host_base }}",window.TOKEN="{{ api_auth_token }}"</script>
</head><body><script src="{{ base_path }}/static-files/main.js"></script></body></html>
"""


@pytest.fixture
def ui(tmp_path, monkeypatch):
    """A small build of the UI, in place of the installed one."""
    root = tmp_path / "site-packages" / "matyan_ui" / "static"
    files = {
        "../_config.py": b"secret",
        "index-template.html": TEMPLATE.encode(),
        "index.html": b"not to be served",
        "index.html.gz": gzip.compress(b"not to be served"),
        "__pycache__/core.pyc": b"not to be served",
        "matyan_ui_core.py": b"print()\n",
        "abc.worker.js": b"onmessage\n",
        "manifest.json": b"{}",
        "favicon.ico": b"icon",
        "vs/editor.js": b"editor\n",
        "static/js/main.js": b"main\n" * 500,
        "static/js/main.js.gz": gzip.compress(b"main\n" * 500),
        "static/js/large.js": b"x" * (3 * static_files.BLOCK_BYTES + 5),
    }
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    monkeypatch.setattr(package, "find_root", lambda: root)
    return root


@pytest.fixture
def client(ui):
    """A client of a process that was started with the small build."""
    return Client()


@pytest.fixture
def no_ui(monkeypatch):
    monkeypatch.setattr(package, "find_root", lambda: None)


# --- the page ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/runs", "/runs/abc/images", "/metrics/1-2", "/tags/", "/x.y/z"]
)
@pytest.mark.parametrize("accept", [HTML["Accept"], "*/*", None])
def test_every_address_that_is_no_other_gets_the_page(client, path, accept):
    answer = client.get(path, headers={"Accept": accept} if accept else {})

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert 'window.API_HOST_BASE="http://testserver"' in answer.content.decode()


def test_the_page_is_filled_in(client):
    text = client.get("/").content.decode()

    assert 'window.API_BASE_PATH=""' in text
    assert 'window.SUFFIX="/api/v1"' in text
    assert 'window.TOKEN=""' in text
    assert 'src="/static-files/main.js"' in text
    assert "{{" not in text


def test_head_is_answered_too(client):
    answer = client.head("/runs", headers=HTML)

    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({"Host": "tracker.example:8443"}, "http://tracker.example:8443"),
        ({"X-Forwarded-Proto": "https"}, "https://testserver"),
        (
            {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.example"},
            "https://a.example",
        ),
        (
            {"X-Forwarded-Proto": "HTTPS, http", "X-Forwarded-Host": "a:1, b"},
            "https://a:1",
        ),
        ({"X-Forwarded-Proto": "javascript"}, "http://testserver"),
        ({"X-Forwarded-Host": '"><script>alert(1)</script>'}, "http://testserver"),
        ({"X-Forwarded-Host": ""}, "http://testserver"),
    ],
)
def test_the_api_is_at_the_origin_the_browser_sees(client, settings, headers, origin):
    settings.ALLOWED_HOSTS = ["*"]
    settings.MATYAN_TRUST_FORWARDED = True

    answer = client.get("/", headers={**HTML, **headers})

    assert f'window.API_HOST_BASE="{origin}"' in answer.content.decode()
    assert "X-Forwarded-Host" in answer.headers["Vary"]


def test_a_host_that_is_not_allowed_is_not_believed(client, settings):
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.MATYAN_TRUST_FORWARDED = True

    forwarded = client.get("/", headers={**HTML, "X-Forwarded-Host": "evil.example"})
    own = client.get("/", headers={**HTML, "Host": "evil.example"})

    assert 'HOST_BASE="http://testserver"' in forwarded.content.decode()
    assert own.status_code == 400


def test_no_proxy_is_believed_unless_there_is_one(client, settings):
    settings.ALLOWED_HOSTS = ["*"]
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}

    answer = client.get("/", headers={**HTML, **said})

    assert 'HOST_BASE="http://testserver"' in answer.content.decode()


def test_a_path_prefix_is_part_of_every_address():
    page = index.render(TEMPLATE, origin="https://h", base_path="/a b/<x>")

    assert 'window.API_BASE_PATH="/a%20b/%3Cx%3E"' in page.html
    assert 'src="/a%20b/%3Cx%3E/static-files/main.js"' in page.html
    assert 'window.API_HOST_BASE="https://h/a%20b/%3Cx%3E"' in page.html


def test_other_sites_do_not_hold_up_the_page():
    page = index.render(TEMPLATE, origin="http://h", base_path="", report_scripts=True)
    html = page.html

    assert 'src="https://' not in html.replace('s.src="https://', "")
    assert 'rel="stylesheet" href="https://' not in html
    assert "window.loadPyodide=" in html
    assert "https://cdn.example/pyodide/v1/full/pyodide.js" in html
    assert "https://fonts.example/icon?family=Icons" in html


@pytest.mark.parametrize("allowed", [True, False])
def test_only_scripts_of_the_page_itself_may_run(allowed):
    page = index.render(
        TEMPLATE, origin="http://h", base_path="", report_scripts=allowed
    )
    scripts = re.findall(r"<script>(.*?)</script>", page.html, re.DOTALL)
    directives = dict(part.split(" ", 1) for part in page.policy.split("; "))

    assert len(scripts) == 4
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in directives["script-src"]
    assert "'unsafe-inline'" not in directives["script-src"]
    assert ("'wasm-unsafe-eval'" in directives["script-src"]) == allowed
    assert ("https://cdn.jsdelivr.net" in page.policy) == allowed
    assert "'unsafe-eval'" in directives["script-src"]  # WebGL figures
    assert "blob:" in directives["worker-src"]
    assert {"data:", "blob:"} <= set(directives["img-src"].split())
    assert {"data:", "blob:"} <= set(directives["media-src"].split())
    assert "https://api.github.com" in directives["connect-src"]
    assert directives["frame-ancestors"] == "'none'"


def test_the_page_carries_its_policy(client):
    policy = client.get("/").headers["Content-Security-Policy"]

    assert policy.startswith("default-src 'self'; script-src ")


def test_no_page_runs_the_scripts_of_reports_unless_it_is_told_to(client, settings):
    page = client.get("/reports/r")
    settings.MATYAN_REPORT_SCRIPTS = True
    told = client.get("/reports/r")

    assert b"pyodide.js" not in page.content
    assert "jsdelivr" not in page.headers["Content-Security-Policy"]
    assert b"pyodide.js" in told.content
    assert "jsdelivr" in told.headers["Content-Security-Policy"]


# --- what is not a page --------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/api/nope",
        "/api/v1/rest/nope",
        "/health/nope",
        "/static/nope.css",
        "/static-files/nope.js",
        "/static-files/",
        "/static-files",
        "/api",
    ],
)
def test_an_unknown_address_of_the_server_is_a_json_404(client, path):
    answer = client.get(path, headers=HTML)

    assert answer.status_code == 404
    assert answer.json()["message"] == "Not Found"


def test_only_reading_gets_a_page(client):
    for method in ("post", "put", "delete", "options"):
        answer = getattr(client, method)("/runs", headers=HTML)
        assert answer.status_code == 404
        assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("accept", ["application/json", "image/png,image/*"])
def test_who_takes_no_html_gets_a_json_404(client, accept):
    assert client.get("/runs", headers={"Accept": accept}).status_code == 404


@pytest.mark.parametrize("slash", ["", "/"])
def test_metrics_is_a_page_in_browsers_and_numbers_for_prometheus(client, slash):
    page = client.get(f"/metrics{slash}", headers=HTML)
    scraped = client.get(
        f"/metrics{slash}",
        headers={"Accept": "application/openmetrics-text,text/plain;q=0.5,*/*;q=0.1"},
    )

    assert b"API_HOST_BASE" in page.content
    assert b"# HELP" in scraped.content


def test_the_icon_is_found_where_browsers_look(client):
    answer = client.get("/favicon.ico", headers={"Accept": "image/*"})

    assert answer.status_code == 302
    assert answer.headers["Location"] == "/static-files/favicon.ico"


# --- without the package -------------------------------------------------------------


def test_without_the_package_a_page_says_how_to_install_it(no_ui):
    answer = Client().get("/", headers=HTML)

    text = answer.content.decode()
    assert answer.status_code == 200
    assert f"matyan-ui=={package.VERSION}" in text
    assert 'href="/api/v1/rest"' in text
    assert 'href="/admin/"' in text
    assert "script" not in answer.headers["Content-Security-Policy"]
    assert Client().get("/runs", headers=HTML).status_code == 404
    assert Client().get("/favicon.ico").status_code == 404


def test_the_package_is_found_without_being_imported():
    root = package.find_root()

    assert root is None or (root / "index-template.html").is_file()
    assert "matyan_ui" not in sys.modules


def test_what_is_installed_is_what_is_told():
    line = f"--no-deps --ignore-requires-python {package.NAME}=={package.VERSION}"

    assert line in Path(env.BASE_DIR, "Makefile").read_text(encoding="utf-8")


# --- files ---------------------------------------------------------------------------


def get_file(path, **headers):
    """Ask a fresh WSGI middleware for a file; None if it lets the request pass."""
    middleware = StaticFilesMiddleware(lambda _: HttpResponse(status=404))
    return middleware(RequestFactory().get(path, headers=headers))


async def get_async(path, **headers):
    """Ask a fresh ASGI middleware for a file."""

    async def pass_on(_):
        return HttpResponse(status=404)

    middleware = StaticFilesMiddleware(pass_on)
    return await middleware(AsyncRequestFactory().get(path, headers=headers))


async def body_of(response):
    if response.streaming:
        return b"".join([block async for block in response])
    return response.content


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("path", "content_type", "cache"),
    [
        ("static/js/main.js", "text/javascript", "max-age=31536000, public, immutable"),
        ("abc.worker.js", "text/javascript", "max-age=600, public"),
        ("matyan_ui_core.py", "text/x-python", "max-age=600, public"),
        ("manifest.json", "application/json", "max-age=600, public"),
        ("vs/editor.js", "text/javascript", "max-age=600, public"),
    ],
)
async def test_files_and_how_long_they_may_be_kept(
    ui, path, content_type, cache, slash
):
    answer = await get_async(f"/static-files/{path}{slash}")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].split(";")[0] == content_type
    assert answer.headers["Cache-Control"] == cache
    assert await body_of(answer) == (ui / path).read_bytes()


async def test_twins_go_to_whoever_takes_them(ui):
    packed = await get_async(
        "/static-files/static/js/main.js", **{"Accept-Encoding": "gzip, br"}
    )
    plain = await get_async("/static-files/static/js/main.js")

    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Content-Type"].startswith("text/javascript")
    assert packed.headers["Vary"] == "Accept-Encoding"
    assert gzip.decompress(await body_of(packed)) == await body_of(plain)
    assert "Content-Encoding" not in plain.headers


@pytest.mark.parametrize(
    "path",
    [
        "../_config.py",
        "static/../../_config.py",
        "%2e%2e/_config.py",
        "..%2f_config.py",
        "..\\_config.py",
        "/etc/passwd",
        "index.html",
        "index.html.gz",
        "index-template.html",
        "static/js/main.js.gz",
        "__pycache__/core.pyc",
        "static",
        "static/js",
        "",
        "nope.js",
    ],
)
async def test_nothing_else_is_served(ui, path):
    assert get_file(f"/static-files/{path}").status_code == 404
    assert (await get_async(f"/static-files/{path}")).status_code == 404


async def test_large_files_are_read_block_by_block(ui):
    answer = await get_async("/static-files/static/js/large.js")

    assert answer.streaming
    blocks = [block async for block in answer]
    assert [len(block) for block in blocks] == [static_files.BLOCK_BYTES] * 3 + [5]
    answer.close()


async def test_a_reader_that_leaves_has_the_file_closed(ui):
    answer = await get_async("/static-files/static/js/large.js")
    blocks = answer._iterator
    await anext(blocks)

    answer.close()

    assert blocks._file.closed


async def test_an_unchanged_file_is_not_sent_again(ui):
    first = await get_async("/static-files/manifest.json")
    again = await get_async(
        "/static-files/manifest.json", **{"If-None-Match": first.headers["ETag"]}
    )

    assert (again.status_code, await body_of(again)) == (304, b"")


async def test_parts_and_heads(ui):
    part = await get_async("/static-files/static/js/main.js", Range="bytes=5-9")

    assert part.status_code == 206
    assert await body_of(part) == b"main\n"
    assert part.headers["Content-Range"] == "bytes 5-9/2500"


async def test_only_reading_is_allowed(ui):
    async def pass_on(_):
        return HttpResponse(status=404)

    middleware = StaticFilesMiddleware(pass_on)
    for method in ("post", "put", "delete"):
        request = getattr(AsyncRequestFactory(), method)("/static-files/manifest.json")
        assert (await middleware(request)).status_code == 405


async def test_the_admin_s_files_are_served_the_same_way(settings, no_ui):
    settings.WHITENOISE_USE_FINDERS = True

    answer = await get_async("/static/admin/css/base.css")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/css")
    sync = get_file("/static/admin/css/base.css")
    assert sync.status_code == 200
    sync.close()


async def test_other_requests_pass(ui):
    assert (await get_async("/api/v1/rest/tags")).status_code == 404
    assert get_file("/").status_code == 404


def test_the_gateway_s_process_has_no_ui(ui, settings):
    settings.MATYAN_ROLE = "frontier"

    assert get_file("/static-files/manifest.json").status_code == 404


async def test_a_page_on_asgi(ui):
    answer = await AsyncClient().get("/runs", headers=HTML)

    assert answer.status_code == 200
    assert b"API_HOST_BASE" in answer.content
