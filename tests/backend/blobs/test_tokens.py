"""Signed tokens and URIs: only what this installation made is taken."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.blobs.signing import (
    MultipartGrant,
    MultipartTokens,
    Signer,
    UploadGrant,
    UploadTokens,
)
from backend.blobs.uris import BlobAddress, BlobUris
from backend.errors import TokenError

SECRET = "tests only"  # noqa: S105 - protects nothing
GRANT = UploadGrant("r/a", 10, 1_000, "text/plain", exact=True)


def flipped(token: str, at: int) -> str:
    """The token with one bit of it changed."""
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[at % len(raw)] ^= 1
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_a_token_of_which_a_bit_was_changed_is_refused(payload, at):
    signer = Signer(SECRET, purpose="a")
    token = signer.sign(payload)
    assert signer.verify(token) == payload
    with pytest.raises(TokenError, match="altered"):
        signer.verify(flipped(token, at))


@given(st.text(max_size=60))
def test_what_is_no_token_is_refused(text):
    with pytest.raises(TokenError, match="not valid"):
        Signer(SECRET, purpose="a").verify(text)


def test_a_token_of_another_purpose_or_secret_is_refused():
    token = Signer(SECRET, purpose="a").sign(b"payload")
    for other in (Signer(SECRET, purpose="b"), Signer("other", purpose="a")):
        with pytest.raises(TokenError, match="altered"):
            other.verify(token)
    with pytest.raises(TokenError, match="not a token"):
        Signer(SECRET, purpose="a").verify("A" * 100_000)
    with pytest.raises(ValueError, match="secret is needed"):
        Signer("", purpose="a")


def test_an_upload_token_counts_until_it_expires():
    tokens = UploadTokens(SECRET)
    token = tokens.encode(GRANT)
    assert tokens.decode(token, now_us=999) == GRANT
    with pytest.raises(TokenError, match="expired"):
        tokens.decode(token, now_us=1_000)


def test_tokens_of_the_two_kinds_of_uploads_are_not_mistaken():
    grant = MultipartGrant("r/a", "id", 100, 30, 1_000)
    token = MultipartTokens(SECRET).encode(grant)
    assert MultipartTokens(SECRET).decode(token, now_us=0) == grant
    with pytest.raises(TokenError, match="altered"):
        UploadTokens(SECRET).decode(token, now_us=0)
    with pytest.raises(TokenError, match="expired"):
        MultipartTokens(SECRET).decode(token, now_us=1_000)


def test_parts_add_up():
    grant = MultipartGrant("r/a", "id", 100, 30, 0)
    sizes = [grant.part_size(number) for number in range(1, grant.parts + 1)]
    assert sizes == [30, 30, 30, 10]
    assert MultipartGrant("r/a", "id", 90, 30, 0).parts == 3


@given(
    st.text(max_size=40).filter(lambda text: text.isprintable()),
    st.integers(0, 2**31),
    st.integers(-(2**62), 2**62),
)
def test_a_uri_leads_back_to_its_object_and_is_always_the_same(path, series, step):
    address = BlobAddress("run", path, series, step)
    uri = BlobUris(SECRET).encode(address)
    assert BlobUris(SECRET).decode(uri) == address
    assert BlobUris(SECRET).encode(address) == uri
    assert not uri.startswith("progress")
    assert uri.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("uri", ["", "b1_", "b2_abc", "progress_0", "b1_" + "A" * 60])
def test_a_uri_nobody_handed_out_is_refused(uri):
    with pytest.raises(TokenError, match="not valid"):
        BlobUris(SECRET).decode(uri)


def test_uris_of_another_installation_are_refused():
    uri = BlobUris("another").encode(BlobAddress("r", "p", 1, 2))
    with pytest.raises(TokenError, match="altered"):
        BlobUris(SECRET).decode(uri)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("run/seq/a/0.png", "seq/a/0.png"),
        ("run/a//b", "a/b"),
        ("other/a", None),
        ("run/", None),
        ("run", None),
        ("run/../other/a", None),
    ],
)
def test_an_object_has_an_address_only_within_its_run(key, path):
    found = BlobAddress.of_key(key, run_id="run", series_number=1, step=2)
    assert (found and found.path) == path
