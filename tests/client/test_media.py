"""Images and audio: what becomes of what they are made from, and where it goes."""

from __future__ import annotations

import io
import struct
import wave
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from matyan_client import Audio, Image, Text
from matyan_client.media_files import decode_wav, encode_png, read_image_header

SIZES = st.integers(1, 9)


def decode_png(data: bytes) -> np.ndarray:
    """Read the PNG files that `encode_png` makes."""
    at, body = 8, b""
    width = height = channels = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        assert checksum == zlib.crc32(kind + content)
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", content)
            assert depth == 8
            channels = {0: 1, 4: 2, 2: 3, 6: 4}[colour]
        body += content if kind == b"IDAT" else b""
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, -1)
    assert (rows[:, 0] == 2).all()
    pixels = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8)
    return pixels.reshape(height, width, channels)


@given(
    pixels=st.tuples(SIZES, SIZES, st.integers(1, 4)).flatmap(
        lambda shape: arrays.arrays(np.uint8, shape)
    )
)
def test_pixels_are_kept_exactly(pixels):
    assert (decode_png(encode_png(pixels)) == pixels).all()


class Tensor:
    """What torch's tensors are to the SDK."""

    def __init__(self, values: np.ndarray, device: str = "cuda") -> None:
        self.values, self.device = values, device

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return Tensor(self.values, "cpu")

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        if self.device != "cpu":
            msg = "can't convert cuda tensor to numpy"
            raise TypeError(msg)
        return self.values


@pytest.mark.parametrize(
    ("given", "pixels"),
    [
        (np.array([[0, 255]], np.uint8), [[[0], [255]]]),
        (np.array([[True, False]]), [[[255], [0]]]),
        (np.array([[0.0, 0.5, 1.0, -3, np.nan]]), [[[0], [128], [255], [0], [0]]]),
        (np.array([[0.0, 128.0, 300.0]]), [[[0], [128], [255]]]),
        (np.array([[-5, 7, 1000]]), [[[0], [7], [255]]]),
        (np.zeros((5, 6, 3)), np.zeros((5, 6, 3))),
        (np.zeros((3, 5, 6)), np.zeros((5, 6, 3))),
        (Tensor(np.zeros((1, 5, 6))), np.zeros((5, 6, 1))),
    ],
    ids=range(8),
)
def test_arrays_and_tensors_become_pixels(given, pixels):
    image = Image(given)
    found = decode_png(image.data)
    assert found.tolist() == np.asarray(pixels).tolist()
    assert (image.height, image.width) == found.shape[:2]
    assert (image.format, image.content_type) == ("png", "image/png")


JPEG = (
    b"\xff\xd8\xff\xe0\x00\x04ab\xff\xdb\x00\x05abc"
    b"\xff\xc0\x00\x11\x08\x00\x07\x00\x09\x03" + bytes(9)
)


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (encode_png(np.zeros((7, 9, 3), np.uint8)), ("png", 9, 7)),
        (JPEG, ("jpeg", 9, 7)),
        (b"\xff\xd8\xff\xe0", ("jpeg", None, None)),
        (b"GIF89a" + struct.pack("<HH", 9, 7), ("gif", 9, 7)),
        (b"BM" + bytes(16) + struct.pack("<ii", 9, -7), ("bmp", 9, 7)),
        (b"RIFF1234WEBPVP8X" + bytes(8) + b"\x08\0\0\x06\0\0", ("webp", 9, 7)),
        (
            b"RIFF1234WEBPVP8 " + bytes(10) + struct.pack("<HH", 9, 7) + b"1234",
            ("webp", 9, 7),
        ),
        (b"RIFF1234WEBPVP8L", ("webp", None, None)),
        (b"", (None, None, None)),
        (b"\x89PNG\r\n\x1a\n", (None, None, None)),
    ],
    ids=range(10),
)
def test_files_tell_format_and_size(data, header):
    assert read_image_header(data) == header


@given(data=st.binary(max_size=40), start=st.sampled_from([b"", JPEG, b"RIFF1234WEBP"]))
def test_damaged_files_break_nothing(data, start):
    read_image_header(start + data)


def test_files_are_kept_as_they_are(tmp_path):
    data = JPEG + b"rest"
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    for file in (data, path, str(path), io.BytesIO(data), bytearray(data)):
        image = Image(file, caption="c")
        assert (image.data, image.format) == (data, "jpeg")
    assert Image(b"?", format_=".SVG").format == "svg"
    assert image.json() == {
        "type": "image",
        "format": "jpeg",
        "caption": "c",
        "width": 9,
        "height": 7,
    }


class Figure:
    """What matplotlib's figures are to the SDK."""

    def savefig(self, file: io.BytesIO, *, format: str) -> None:  # noqa: A002
        file.write(b"\x89PNG" + format.encode())


def test_a_matplotlib_figure_is_drawn():
    assert Image(Figure()).data == b"\x89PNGpng"


def test_a_pil_image_is_saved_as_asked():
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.new("RGBA", (9, 7), (255, 0, 0, 128))
    assert Image(picture).format == "png"
    assert Image(picture, format_="jpg").format == "jpeg"
    assert Image(np.zeros((4, 4), np.uint8), format_="webp").format == "webp"
    assert Image(picture).to_pil_image().size == (9, 7)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Image(object()), TypeError),
        (lambda: Image(None), TypeError),
        (lambda: Image(io.StringIO("x")), TypeError),
        (lambda: Image("/nowhere"), OSError),
        (lambda: Image(np.zeros(3)), ValueError),
        (lambda: Image(np.zeros((5, 5, 5))), ValueError),
        (lambda: Image(np.zeros((0, 5))), ValueError),
        (lambda: Image(np.array([["a"]])), TypeError),
        (lambda: Audio(7), TypeError),
        (lambda: Audio(np.zeros((40, 40, 2))), ValueError),
        (lambda: Audio(np.zeros((40, 40))), ValueError),
        (lambda: Audio(np.array(["a"])), TypeError),
    ],
)
def test_what_is_no_image_or_sound_is_refused(make, error):
    with pytest.raises(error):
        make()


def test_samples_become_a_wav_file():
    sound = Audio(np.array([0.0, 0.5, -1.0, 1.0, np.nan]), rate=8000, caption="tone")
    with wave.open(io.BytesIO(sound.data)) as file:
        assert (file.getframerate(), file.getnchannels()) == (8000, 1)
    samples, rate = decode_wav(sound.data)
    assert samples[:, 0].tolist() == [0, 16384, -32767, 32767, 0]
    assert rate == 8000
    assert sound.json() == {
        "type": "audio",
        "format": "wav",
        "caption": "tone",
        "rate": 8000,
    }


def test_loud_samples_are_scaled_and_integers_keep_their_loudness():
    loud, _ = decode_wav(Audio(np.array([0.0, 2.0, -4.0])).data)
    assert loud[:, 0].tolist() == [0, 16384, -32767]
    words, rate = decode_wav(Audio(np.array([[1, -2], [3, 4], [5, 6]], np.int16)).data)
    assert words.tolist() == [[1, -2], [3, 4], [5, 6]]
    assert rate == 22_050
    assert decode_wav(Audio(np.zeros((2, 50))).data)[0].shape == (50, 2)
    octets, _ = decode_wav(Audio(np.array([0, 128, 255], np.uint8)).data)
    assert octets[:, 0].tolist() == [-32768, 0, 32512]
    with pytest.raises(ValueError, match="not a WAV file"):
        decode_wav(b"nothing")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"RIFF1234WAVE", "wav"),
        (b"ID3\x04", "mp3"),
        (b"\xff\xfb\x90", "mp3"),
        (b"fLaC", "flac"),
        (b"OggS", "ogg"),
        (b"what", "aac"),
    ],
)
def test_audio_files_tell_their_format(data, found):
    assert Audio(data, format_="aac").format == found


# Tracking them.


def test_objects_of_two_contexts_have_blobs_of_their_own(server, blobs, open_run):
    run = open_run(server.url)
    pictures = [np.full((2, 3), shade, np.uint8) for shade in (1, 2, 3)]
    run.track(Image(pictures[0], "a"), "im/age", step=5, context={"subset": "a"})
    run.track(Image(pictures[1], "b"), "im/age", step=5, context={"subset": "b"})
    run.track(Image(pictures[2], "c"), "im/age", step=5, context={"subset": "b"})
    assert run.flush(5)
    found = server.objects("images")
    assert [ref.context for ref, _, _ in found] == [
        '{"subset":"a"}',
        *['{"subset":"b"}'] * 2,
    ]
    assert {step for _, step, _ in found} == {5}
    keys = [value["s3_key"] for _, _, value in found]
    assert len(set(keys)) == 3
    for key, picture in zip(keys, pictures, strict=True):
        path = key.removeprefix(f"{run.hash}/")
        assert path.startswith("seq/im_age/")
        stored = blobs.stored[path]
        assert decode_png(stored)[..., 0].tolist() == picture.tolist()
    assert found[0][2] == {
        "type": "image",
        "format": "png",
        "caption": "a",
        "width": 3,
        "height": 2,
        "s3_key": keys[0],
    }
    assert [body["content_type"] for body in blobs.presigned] == ["image/png"] * 3


def test_lists_are_one_step(server, blobs, open_run):
    run = open_run(server.url)
    run.track([Audio(np.zeros(4), rate=100), Audio(np.ones(4), rate=100)], "sounds")
    run.track((Text("a"), Text("b")), "words", step=4)
    assert run.flush(5)
    ((ref, step, sounds),) = server.objects("audios")
    assert (ref.name, step, len(sounds)) == ("sounds", 0, 2)
    assert len({value["s3_key"] for value in sounds}) == 2
    assert len(blobs.stored) == 2
    ((_, step, words),) = server.objects("texts")
    assert (step, [word["data"] for word in words]) == (4, ["a", "b"])


def test_a_resumed_run_needs_no_step_for_its_images(server, blobs, open_run):
    run = open_run(server.url, "resumed")
    for shade in (1, 2):
        run.track(Image(np.full((1, 1), shade, np.uint8)), "x")
    assert run.flush(5)
    assert len(blobs.stored) == 2


@pytest.mark.parametrize(
    "values",
    [
        [Text("a"), Image(np.zeros((1, 1)))],
        [1.0, 2.0],
        [Image(np.zeros((1, 1))), None],
    ],
    ids=range(3),
)
def test_lists_of_other_things_are_refused(values, server, open_run):
    run = open_run(server.url)
    with pytest.raises(TypeError, match="all of one class"):
        run.track(values, "x")
    with pytest.raises(ValueError, match="needs a name"):
        run.track(Image(np.zeros((1, 1))))
