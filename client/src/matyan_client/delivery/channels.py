"""The two protocols over an open WebSocket: binary `matyan.v2`, and JSON.

A channel sends frames and tells which of them the server has acknowledged. It belongs
to one thread, except `abort`, which any thread may call to unblock that one.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections import deque
from typing import Final, NamedTuple, Protocol, cast

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from matyan_client.delivery.frames import Frame
from matyan_client.delivery.json_messages import json_frames, left_out
from matyan_wire.frames import encode_frame

_WORTH_COMPRESSING: Final = 4096


class ChannelClosedError(Exception):
    """The connection is gone; the text says why."""


class Ack(NamedTuple):
    """The server's answer to one frame.

    Attributes:
        seq: The frame, None for the oldest that is not answered.
        error: None when its content is in the event log.
        retry: Whether the same frame may succeed later.
        left_out: What of the frame the protocol could not say: counts by reason.
    """

    seq: int | None
    error: str | None = None
    retry: bool = False
    left_out: tuple[tuple[str, int], ...] = ()


class Codec(Protocol):
    """What differs between the protocols; kept for one connection."""

    def encode(self, frame: Frame) -> list[bytes | str]:
        """Return the WebSocket messages that say what `frame` says."""
        ...

    def read(self, answer: dict[str, object]) -> Ack | None:
        """Return what one answer acknowledges; None when it completes no frame."""
        ...


class Channel:
    """One open connection speaking one protocol."""

    def __init__(self, connection: ClientConnection, codec: Codec) -> None:
        self._connection = connection
        self._codec = codec

    def send(self, frame: Frame) -> None:
        """Hand `frame` to the connection; blocks while the server does not read.

        Raises:
            ChannelClosedError: If the connection is gone.
        """
        for message in self._codec.encode(frame):
            try:
                self._connection.send(message)
            except ConnectionClosed as error:
                raise ChannelClosedError(_why(error)) from error
            except OSError as error:
                raise ChannelClosedError(str(error)) from error

    def receive(self, *, timeout_s: float) -> Ack | None:
        """Return the next acknowledgement; None when none came in time.

        Raises:
            ChannelClosedError: If the connection is gone or answers nonsense.
        """
        try:
            text = self._connection.recv(timeout=timeout_s)
        except TimeoutError:
            return None
        except ConnectionClosed as error:
            raise ChannelClosedError(_why(error)) from error
        try:
            answer: object = json.loads(text)
        except ValueError as error:
            msg = "the server's acknowledgement is no JSON"
            raise ChannelClosedError(msg) from error
        if not isinstance(answer, dict):
            msg = "the server's acknowledgement is no JSON object"
            raise ChannelClosedError(msg)
        return self._codec.read(cast("dict[str, object]", answer))

    def close(self) -> None:
        """Close the connection politely, within its close timeout."""
        self._connection.close()

    def abort(self) -> None:
        """Cut the connection: a blocked `send` or `receive` ends at once."""
        try:
            self._connection.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._connection.socket.close()

    def abandon(self) -> None:
        """Close this process's copy of the socket only: a parent still uses it."""
        with contextlib.suppress(OSError):
            os.close(self._connection.socket.detach())


class BinaryCodec:
    """Subprotocol `matyan.v2`: a header byte and an encoded batch.

    Args:
        compress: Whether to compress; pays on a network, not on one machine.
    """

    def __init__(self, *, compress: bool) -> None:
        self._compress = compress

    def encode(self, frame: Frame) -> list[bytes | str]:
        """Return one binary message."""
        worth_it = self._compress and len(frame.encoded) >= _WORTH_COMPRESSING
        return [encode_frame(frame.encoded, zstd_level=1 if worth_it else None)]

    def read(self, answer: dict[str, object]) -> Ack | None:
        """Return the acknowledgement; a frame nobody could read has no number in it."""
        seq = answer.get("seq")
        number = seq if isinstance(seq, int) else None
        if answer.get("status") == "ok":
            return Ack(number)
        return Ack(number, str(answer.get("error")), retry=bool(answer.get("retry")))


class JsonCodec:
    """The JSON protocol: frames of messages, answered in order, without positions."""

    def __init__(self) -> None:
        self._expected: deque[tuple[int, bool]] = deque()
        self._errors: dict[int, Ack] = {}
        self._left_out: dict[int, tuple[tuple[str, int], ...]] = {}

    def encode(self, frame: Frame) -> list[bytes | str]:
        """Return one text message per thousand items."""
        texts: list[bytes | str] = list(json_frames(frame.batch))
        missing = left_out(frame.batch)
        if missing:
            self._left_out[frame.cut.seq] = tuple(missing.items())
        ends = [False] * (len(texts) - 1) + [True]
        self._expected.extend((frame.cut.seq, end) for end in ends)
        return texts

    def read(self, answer: dict[str, object]) -> Ack | None:
        """Return the acknowledgement of a frame, with its last message's answer."""
        if not self._expected:
            return None
        seq, last = self._expected.popleft()
        if answer.get("status") != "ok":
            retry = bool(answer.get("retry", False))
            self._errors[seq] = Ack(seq, str(answer.get("error")), retry=retry)
        if not last:
            return None
        missing = self._left_out.pop(seq, ())
        return self._errors.pop(seq, Ack(seq))._replace(left_out=missing)


def _why(error: ConnectionClosed) -> str:
    close = error.rcvd
    if close is None:
        return "the connection was lost"
    return f"the server closed the connection ({close.code} {close.reason})".strip()
