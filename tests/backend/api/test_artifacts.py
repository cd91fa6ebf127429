"""Files of runs sent to people: one, a range of it, all of them."""

import io
import re
import warnings
import zipfile
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.api.downloads import (
    RangeNotSatisfiableError,
    attachment_headers,
    read_range,
    safe_content_type,
)
from backend.api.zip_frames import ZipNames
from backend.domain.blobs import blob_key, new_blob_id
from matyan_wire import batch as wire
from tests.backend.api.conftest import T0_US

PATH = "runs/r1/artifacts/download"


@pytest.fixture
def add(runtime, store, writer):
    """Log an artifact as clients do; `content` None: it never arrives."""
    writer.run("r1")

    def add(path, content, content_type="text/plain"):
        blob_id = new_blob_id(now_us=T0_US)
        if content is not None:
            runtime.get_blobs().put(blob_key("r1", path, blob_id), [content])
        grant = wire.BlobGrant(path, blob_id)
        ref = wire.BlobRef(path, f"r1/{path}", content_type)
        writer.send("r1", events=[grant, ref])

    return add


def download(api, path, **headers):
    return api.client.get(f"/api/v1/rest/{PATH}", {"path": path}, headers=headers)


def body(response):
    return b"".join(response.streaming_content)


def test_a_file_is_sent_as_it_came(api, add):
    content = bytes(range(256)) * 5000
    add("dir/model.pt", content, "application/x-thing")
    response = download(api, "dir/model.pt")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/x-thing"
    assert response.headers["Content-Length"] == str(len(content))
    assert response.headers["Content-Disposition"] == (
        'attachment; filename="model.pt"'
    )
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert body(response) == content


def test_an_empty_file_is_a_file(api, add):
    add("empty", b"")
    response = download(api, "empty")
    assert (response.status_code, body(response)) == (200, b"")
    assert response.headers["Content-Length"] == "0"


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=2-5", 2, 6),
        ("bytes=7-", 7, 10),
        ("bytes=-3", 7, 10),
        ("bytes=-99", 0, 10),
        ("bytes=4-99999999999", 4, 10),
    ],
)
def test_a_range_is_sent(api, add, wanted, start, stop):
    add("a", b"0123456789")
    response = download(api, "a", range=wanted)
    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/10"
    assert response.headers["Content-Length"] == str(stop - start)
    assert body(response) == b"0123456789"[start:stop]


@pytest.mark.parametrize(
    "wanted", ["bytes=5-2", "bytes=-", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b", "x"]
)
def test_what_is_no_single_range_gets_the_whole_file(api, add, wanted):
    add("a", b"0123456789")
    response = download(api, "a", range=wanted)
    assert (response.status_code, body(response)) == (200, b"0123456789")


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_range_outside_is_refused(api, add, wanted):
    add("a", b"0123456789")
    assert download(api, "a", range=wanted).status_code == 416


def test_a_range_of_another_version_gets_the_whole_file(api, add):
    add("a", b"0123456789")
    first = download(api, "a")
    etag = first.headers["ETag"]
    same = download(api, "a", **{"range": "bytes=0-1", "if-range": etag})
    other = download(api, "a", **{"range": "bytes=0-1", "if-range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)
    assert [body(one) for one in (first, same, other)] == [
        b"0123456789",
        b"01",
        b"0123456789",
    ]


def test_head_tells_without_sending(api, add):
    add("a", b"0123456789")
    response = api.client.head(f"/api/v1/rest/{PATH}", {"path": "a"})
    assert response.status_code == 200
    assert response.headers["Content-Length"] == "10"
    assert response.content == b""


def test_what_is_not_there_is_404(api, add):
    add("listed", None)
    for path in ("listed", "none", "../x", "/etc/passwd", "a\nb"):
        response = download(api, path)
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not_found"
    assert api.get("runs/none/artifacts/download?path=a").status_code == 404
    assert api.get(PATH).status_code == 422


def test_an_upload_under_way_does_not_hide_the_last_one(api, add):
    add("a", b"first")
    add("a", None)
    assert body(download(api, "a")) == b"first"


NAMES = [
    'quo"te.txt',
    "semi;colon.txt",
    "back\\slash.txt",
    "ünï.txt",
    "日本語.png",
    "percent%20.txt",
    "a'b.txt",
    " lead.txt",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_reaches_the_browser(api, add, name):
    add(f"dir/{name}", b"x")
    response = download(api, f"dir/{name}")
    assert (response.status_code, body(response)) == (200, b"x")
    sent = response.headers["Content-Disposition"]
    plain = re.fullmatch(r'attachment; filename="([^"\\]*)"(; .*)?', sent)
    extended = re.search(r"; filename\*=UTF-8''([A-Za-z0-9%._~-]+)$", sent)
    assert (unquote(extended[1]) if extended else plain[1]) == name


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_no_name_can_inject_a_header(name):
    for value in attachment_headers(name).values():
        assert value.isascii()
        assert value.isprintable()
        assert value.count('"') in {0, 2}


@pytest.mark.parametrize(
    "content_type", ["text/html\r\nX-Evil: 1", "text/html\nX-Evil: 1", "a/b\0", ""]
)
def test_no_content_type_can_inject_a_header(api, add, content_type):
    add("a", b"x", content_type)
    response = download(api, "a")
    assert (response.status_code, body(response)) == (200, b"x")
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert "X-Evil" not in response.headers


@pytest.mark.parametrize(
    ("given_", "sent"),
    [
        ("image/png", "image/png"),
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("", "application/octet-stream"),
        ("nonsense", "application/octet-stream"),
        ("text/html\r\nX-Evil: 1", "application/octet-stream"),
        ("text/html; evil", "application/octet-stream"),
        ("application/json", "application/json"),
        ("text/javascript", "application/octet-stream"),
        ("text/JavaScript1.5; charset=utf-8", "application/octet-stream"),
        ("application/x-ecmascript", "application/octet-stream"),
        ("text/livescript", "application/octet-stream"),
        ("text/jscript", "application/octet-stream"),
        ("text/html", "application/octet-stream"),
        ("application/xhtml+xml", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("text/css", "application/octet-stream"),
        ("application/wasm", "application/octet-stream"),
        ("multipart/x-mixed-replace", "application/octet-stream"),
    ],
)
def test_only_content_types_are_sent_as_such(given_, sent):
    assert safe_content_type(given_) == sent


@given(st.text(max_size=30), st.integers(0, 100))
def test_any_range_is_inside_or_refused(text, size):
    try:
        found = read_range({"Range": f"bytes={text}"}, size=size, etag='"a"')
    except RangeNotSatisfiableError:
        return
    assert found is None or 0 <= found[0] < found[1] <= size


# --- all of them ---------------------------------------------------------------------


def archive(api, run_id="r1"):
    response = api.get(f"runs/{run_id}/artifacts/download-all/")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/zip"
    return zipfile.ZipFile(io.BytesIO(body(response)))


def test_all_files_are_sent_in_an_archive(api, add, tmp_path):
    contents = {
        "model.pt": b"\x00" * 3_000_000,
        "dir/ünï 日本.txt": b"text",
        "dir/deep/er/empty": b"",
        'quo"te': b"q",
    }
    for path, content in contents.items():
        add(path, content)
    add("never arrived", None)
    add("seq/img/0.png", b"hidden")
    found = archive(api)
    assert found.testzip() is None
    assert {name: found.read(name) for name in found.namelist()} == contents
    assert {info.compress_type for info in found.infolist()} == {zipfile.ZIP_STORED}
    assert found.infolist()[0].date_time[:3] == (2026, 11, 23)
    found.extractall(tmp_path)
    assert (tmp_path / "dir/deep/er/empty").read_bytes() == b""


def test_names_that_lead_out_do_not_in_the_archive(api, add, tmp_path):
    contents = {
        "..\\..\\evil.txt": b"1",
        "C:\\windows\\x": b"2",
        "\\\\server\\share": b"3",
        "a": b"4",
        "a\\b": b"5",
    }
    for path, content in contents.items():
        add(path, content)
    found = archive(api)
    assert {found.read(name) for name in found.namelist()} == {*contents.values()}
    for name in found.namelist():
        assert not {"\\", ":", ".."} & {*name, *name.split("/")}
        assert not name.startswith("/")
    target = tmp_path / "out" / "deep" / "er"
    found.extractall(target)
    extracted = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(extracted) == len(contents)
    assert all(path.is_relative_to(target) for path in extracted)


def test_the_archive_begins_before_it_is_made(api, add):
    for name in "abc":
        add(name, b"x" * 1_000_000)
    response = api.get("runs/r1/artifacts/download-all")
    assert 'filename="r1-artifacts.zip"' in response.headers["Content-Disposition"]
    frames = iter(response.streaming_content)
    assert next(frames).startswith(b"PK\x03\x04")
    largest = max(map(len, frames))
    assert largest < 600_000


def test_without_artifacts_there_is_no_archive(api, add):
    assert api.get("runs/r1/artifacts/download-all").status_code == 404
    assert api.get("runs/none/artifacts/download-all").status_code == 404


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b.txt", "a/b.txt"),
        ("..\\..\\evil.txt", "evil.txt"),
        ("C:\\windows\\x", "C_/windows/x"),
        ("a\\..\\b", "a/b"),
        ("\\\\server\\share", "server/share"),
    ],
)
def test_no_member_leads_out_of_the_archive(path, name):
    assert ZipNames().place(path) == name


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "a_", "..", ".", "c.d", "x\\y", ""])).map(
            "/".join
        ),
        max_size=12,
    )
)
def test_every_member_can_be_extracted_beside_the_others(tmp_path_factory, paths):
    names = ZipNames()
    placed = [names.place(path) for path in paths]
    assert len(set(placed)) == len(placed)
    target = tmp_path_factory.mktemp("zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as made:
            for number, name in enumerate(placed):
                made.writestr(name, str(number))
        with zipfile.ZipFile(buffer) as made:
            made.extractall(target)
    for number, name in enumerate(placed):
        assert (target / name).read_text() == str(number)
        assert (target / name).resolve().is_relative_to(target.resolve())


def test_info_tells_where_the_files_are(api, add, runtime):
    add("dir/a.txt", b"x")
    (artifact,) = api.get("runs/r1/info").json()["artifacts"]
    assert (artifact["name"], artifact["path"]) == ("a.txt", "dir/a.txt")
    assert artifact["uri"].startswith("file:///")
    assert "/blobs/runs/r1/" in artifact["uri"]


def test_a_blob_store_that_fails_is_told_of_and_disturbs_nothing_else(
    api, add, settings, runtime
):
    add("a", b"x")
    settings.MATYAN_BLOBS = {"ENGINE": "backend.blobs.none.Store"}
    # The setting closed the store too; it opens again.
    assert download(api, "a").status_code == 503
    info = api.get("runs/r1/info").json()
    assert info["artifacts"][0]["uri"].startswith("blob://r1/")
