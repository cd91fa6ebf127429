"""What a blob store promises: bytes by key, written whole or not at all.

A key is text of 1 to 1,024 bytes, components separated by "/" (`keys.check_key`). A
blob is there completely or not at all, whatever stops in between; writing a key again
replaces its blob. Stores hold no index: which blob a run's path means is known to the
data layer.

Rules for stores: any thread may use one; memory is bounded whatever the blob's size;
every wait ends in bounded time; what a store raises is a `BlobStoreError`,
`BlobKeyError` or `TokenError`.

One conformance suite, written only against this file, runs on every implementation.

Design note: docs/subsystems/blobs.md
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Final

from typing_extensions import override

from backend.errors import BlobLengthError

DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
CHUNK_BYTES: Final = 256 * 1024
"""About how much a stream yields at a time."""

MAX_PARTS: Final = 10_000
DELETE_BATCH: Final = 1_000
DELETERS: Final = 8
"""Deletions at once. One waits for the disk or the network most of its time: of 10,000
files on a busy disk, one after the other took 48 s, eight at once 6 s."""


@dataclass(frozen=True, slots=True)
class UploadTicket:
    """What a client needs to upload one blob, or one part of it, with one HTTP PUT.

    Attributes:
        url: Absolute, or a path on the server that signed it.
        headers: To be sent along.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BlobStat:
    """A blob as it is stored.

    Attributes:
        size: Bytes.
        checksum: "sha256:…", or what else the store tells two contents apart by; ""
            if not known.
        content_type: As given when it was written, where the store keeps it.
    """

    size: int
    checksum: str
    content_type: str


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """A blob in a listing.

    Attributes:
        key: Its key.
        size: Bytes.
        modified_us: When it was written, microseconds since the epoch.
    """

    key: str
    size: int
    modified_us: int


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an upload that has arrived.

    Attributes:
        number: From 1.
        size: Bytes.
    """

    number: int
    size: int


class OpenBlob(Iterator[bytes]):
    """A blob being read: its bytes in pieces of about `CHUNK_BYTES`.

    Close it, or use it as a context manager. Belongs to one thread at a time.

    Attributes:
        stat: The whole blob.
        start: First byte read.
        stop: Byte after the last one read.
    """

    def __init__(
        self,
        stat: BlobStat,
        chunks: Iterator[bytes],
        *,
        start: int,
        stop: int,
        close: Callable[[], None],
    ) -> None:
        self.stat = stat
        self.start = start
        self.stop = stop
        self._chunks = chunks
        self._close = close

    @override
    def __next__(self) -> bytes:
        return next(self._chunks)

    def read(self) -> bytes:
        """Return what is left, and close it; for blobs known to be small."""
        with self:
            return b"".join(self)

    def close(self) -> None:
        """Let go of the file or connection. May be called twice."""
        self._close()

    def __enter__(self) -> OpenBlob:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class BlobStore(ABC):
    """An open blob store.

    Attributes:
        max_single_bytes: Largest blob one PUT can bring.
        has_multipart: Whether uploads in parts are possible.
    """

    max_single_bytes: int = 5 << 40
    has_multipart: bool = True

    # --- uploads by clients ----------------------------------------------------------

    @abstractmethod
    def presign_upload(
        self,
        key: str,
        *,
        max_bytes: int,
        content_type: str,
        expires_s: int,
        exact: bool = False,
    ) -> UploadTicket:
        """Return how a client may upload `key`, and nothing else, until it expires.

        The content type is not signed: clients may leave it out. Asks no server.

        Args:
            key: The blob to be.
            max_bytes: Largest upload. Stores that cannot bound an upload of unknown
                size enforce it only with `exact`.
            content_type: What to store with it, where the store can.
            expires_s: How long it may be used.
            exact: The upload has `max_bytes` bytes, not fewer.

        Raises:
            BlobKeyError: If the key cannot be one.
        """

    @abstractmethod
    def start_multipart(self, key: str, *, content_type: str) -> str:
        """Begin an upload in parts; return its id.

        Raises:
            BlobStoreError: If the store cannot.
        """

    @abstractmethod
    def presign_part(
        self, key: str, upload_id: str, number: int, *, size: int, expires_s: int
    ) -> UploadTicket:
        """Return how a client may upload one part; again replaces it.

        Args:
            key: The blob to be.
            upload_id: From `start_multipart`.
            number: 1 to `MAX_PARTS`.
            size: The part's bytes; some stores want 5 MiB of all but the last.
            expires_s: How long it may be used.
        """

    @abstractmethod
    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        """Return the parts that have arrived, by number.

        Raises:
            MultipartNotFoundError: If there is no such upload, where the store can
                tell; otherwise none have arrived.
        """

    @abstractmethod
    def complete_multipart(self, key: str, upload_id: str, *, size: int) -> BlobStat:
        """Make the parts the blob; calling it again is fine.

        Raises:
            BlobLengthError: If the parts are not 1, 2, 3, … of `size` bytes in all.
            MultipartNotFoundError: If there is no such upload, and no such blob, where
                the store can tell.
        """

    @abstractmethod
    def abort_multipart(self, key: str, upload_id: str) -> None:
        """Forget an upload and its parts; an unknown one is fine."""

    # --- this server -----------------------------------------------------------------

    @abstractmethod
    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,
        max_bytes: int | None = None,
    ) -> BlobStat:
        """Write a blob; when this returns it is durable.

        If `chunks` raises, nothing is written. Of several that write a key at once,
        some may fail; the blob is whole all the same.

        Raises:
            BlobTooLargeError: If there are more than `max_bytes`.
            BlobStoreFullError: If there is no room.
            BlobStoreError: If the store fails.
        """

    @abstractmethod
    def stat(self, key: str) -> BlobStat | None:
        """Return what is known of a blob, None if there is none."""

    @abstractmethod
    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> OpenBlob:
        """Open a blob, or the bytes start <= i < stop of it, for reading.

        A `start` at or after the end reads nothing; `stop` is cut to the end.

        Raises:
            BlobNotFoundError: If there is none.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove a blob; a missing one is fine."""

    @abstractmethod
    def iter_entries(self, prefix: str = "") -> Iterator[BlobEntry]:
        """Yield the blobs whose key begins with `prefix`, in any order.

        Blobs written or deleted meanwhile may or may not be yielded.

        Args:
            prefix: "" or components that end in "/".
        """

    def iter_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys of `iter_entries`."""
        return (entry.key for entry in self.iter_entries(prefix))

    def delete_prefix(
        self,
        prefix: str,
        *,
        max_blobs: int = DELETE_BATCH,
        condemned: Callable[[str], bool] = lambda _key: True,
    ) -> int:
        """Remove blobs under `prefix`; return how many.

        Bounded work: call again while it returns `max_blobs`. What is left after a
        failure is found by the next call.

        Args:
            prefix: Components that end in "/".
            max_blobs: Most blobs removed in this call.
            condemned: Which keys to remove.
        """
        keys = (key for key in self.iter_keys(prefix) if condemned(key))
        doomed = list(islice(keys, max_blobs))
        self.delete_many(doomed)
        return len(doomed)

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove some blobs, `DELETERS` at once; missing ones are fine.

        Bound their number: all keys are held. After a failure some may be left.
        """
        with ThreadPoolExecutor(DELETERS, thread_name_prefix="delete") as pool:
            list(pool.map(self.delete, keys))

    @abstractmethod
    def abort_uploads(
        self, prefix: str, *, condemned: Callable[[str], bool] = lambda _key: True
    ) -> int:
        """Forget uploads in parts of blobs under `prefix`; return how many.

        A store that cannot list them forgets none here, but all of them in time.

        Args:
            prefix: Components that end in "/".
            condemned: Of which keys.
        """

    @abstractmethod
    def abort_stale(self, *, older_than_s: float) -> int:
        """Remove what uploads that did not end left behind; return how many."""

    @abstractmethod
    def check(self) -> None:
        """Return if blobs can be read and written now.

        Raises:
            BlobStoreError: If not; tells why.
        """

    @abstractmethod
    def display_uri(self, key: str) -> str:
        """Return where the blob is, for people: `file://…`, `s3://bucket/key`."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections. May be called twice."""


class BlobWriter(ABC):
    """An upload being received by this server. Belongs to one thread at a time."""

    @abstractmethod
    def expect(self, size: int) -> None:
        """Take note of how many bytes will come, before any has.

        Raises:
            BlobTooLargeError, BlobLengthError: If that many are not allowed.
        """

    @abstractmethod
    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes.

        Raises:
            BlobTooLargeError: If there are more than allowed.
            BlobStoreFullError: If there is no room.
        """

    @abstractmethod
    def commit(self) -> BlobStat:
        """Make what was written the blob, durably.

        Raises:
            BlobLengthError: If it is not as long as announced.
            BlobStoreError: If the store fails; nothing has changed.
        """

    @abstractmethod
    def abort(self) -> None:
        """Drop what was written. Does nothing after `commit`; never raises."""


class ReceivesUploads(ABC):
    """A store whose tickets lead to this server."""

    @abstractmethod
    def place_of(self, token: str) -> str:
        """Return what the ticket's token is for: equal for the same blob or part.

        Touches nothing but the token.

        Raises:
            TokenError: If the token is altered or expired.
        """

    @abstractmethod
    def receive(self, token: str) -> BlobWriter:
        """Return the writer of the upload that the ticket's token allows.

        Raises:
            TokenError: If the token is altered or expired.
            MultipartNotFoundError: If it is for a part of an upload that is over.
            BlobStoreError: If the store fails.
        """


UPLOAD_PATH: Final = "/api/v1/blobs/upload/"
"""Where this server receives uploads; the token follows."""


def check_parts(parts: list[Part], *, size: int) -> None:
    """Check that parts are 1, 2, 3, … and `size` bytes in all.

    Raises:
        BlobLengthError: If they are not.
    """
    found = sum(part.size for part in parts)
    if [part.number for part in parts] != list(range(1, len(parts) + 1)):
        raise BlobLengthError(size=found, expected=size, reason="a part is missing")
    if found != size or not parts:
        raise BlobLengthError(size=found, expected=size)
