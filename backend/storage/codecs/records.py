"""Records of runs, experiments, tags, notes, artifacts and uploads <-> bytes.

A record is a MessagePack array whose first element is its version. Fields are only ever
appended, each with a default: a reader ignores trailing fields it does not know, and
fills in those an older writer left out. A change that would mislead an old reader
raises the version.

Design note: docs/subsystems/metadata.md#records
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import msgspec

from backend.domain.blobs import BlobHistory, Claim, Grant
from backend.domain.entities import Artifact, Experiment, Note, Tag
from backend.domain.runs import Run, plausible_offset_us
from backend.errors import FormatError
from backend.storage.codecs.frames import corrupt

VERSION: Final = 1


class _Versioned(Protocol):
    @property
    def version(self) -> int: ...


R = TypeVar("R", bound=_Versioned)

_encoder: Final = msgspec.msgpack.Encoder()


class _RunRecord(msgspec.Struct, array_like=True):
    version: int
    run_id: str
    name: str
    description: str
    created_us: int
    finished_us: int | None = None
    active: bool = True
    archived: bool = False
    experiment_id: str | None = None
    tag_ids: tuple[str, ...] = ()
    clock_offset_us: int = 0
    resumed_count: int = 0


class _ExperimentRecord(msgspec.Struct, array_like=True):
    version: int
    name: str
    description: str
    created_us: int
    archived: bool = False


class _TagRecord(msgspec.Struct, array_like=True):
    version: int
    name: str
    color: str = ""
    description: str = ""
    archived: bool = False
    created_us: int = 0


class _NoteRecord(msgspec.Struct, array_like=True):
    version: int
    content: str
    created_us: int
    updated_us: int


class _ArtifactRecord(msgspec.Struct, array_like=True):
    version: int
    path: str
    key: str
    content_type: str
    created_us: int


class _BlobRecord(msgspec.Struct, array_like=True):
    version: int
    path: str
    grants: list[tuple[int, int, bytes]]
    claims: list[tuple[int, int, int, int]]


class _TombstoneRecord(msgspec.Struct, array_like=True):
    version: int
    deleted_us: int
    run_number: int
    run: msgspec.Raw


def _reader(kind: type[R]) -> Callable[[bytes, bytes], R]:
    decoder = msgspec.msgpack.Decoder(kind)

    def read(value: bytes, key: bytes) -> R:
        try:
            record = decoder.decode(value)
        except msgspec.DecodeError as error:
            raise corrupt(key, str(error)) from error
        if record.version != VERSION:
            raise FormatError(key=key.hex(), found=record.version, supported=VERSION)
        return record

    return read


_read_run: Final = _reader(_RunRecord)
_read_experiment: Final = _reader(_ExperimentRecord)
_read_tag: Final = _reader(_TagRecord)
_read_note: Final = _reader(_NoteRecord)
_read_artifact: Final = _reader(_ArtifactRecord)
_read_blob: Final = _reader(_BlobRecord)
_read_tombstone: Final = _reader(_TombstoneRecord)


def encode_run(run: Run) -> bytes:
    """Return a run's record; its number is in the key."""
    return _encoder.encode(
        _RunRecord(
            VERSION,
            run.run_id,
            run.name,
            run.description,
            run.created_us,
            run.finished_us,
            run.active,
            run.archived,
            run.experiment_id,
            run.tag_ids,
            run.clock_offset_us,
            run.resumed_count,
        )
    )


def decode_run(value: bytes, *, number: int, key: bytes) -> Run:
    """Return the run in `value`.

    Raises:
        FormatError: If it is not a run's record of this version. So do all of these.
    """
    record = _read_run(value, key)
    return Run(
        number,
        record.run_id,
        record.name,
        record.description,
        record.created_us,
        record.finished_us,
        record.active,
        record.archived,
        record.experiment_id,
        record.tag_ids,
        # Of before this was looked at when a run is made.
        plausible_offset_us(record.clock_offset_us),
        record.resumed_count,
    )


def encode_experiment(experiment: Experiment) -> bytes:
    """Return an experiment's record; its id is in the key."""
    return _encoder.encode(
        _ExperimentRecord(
            VERSION,
            experiment.name,
            experiment.description,
            experiment.created_us,
            experiment.archived,
        )
    )


def decode_experiment(value: bytes, *, experiment_id: str, key: bytes) -> Experiment:
    """Return the experiment in `value`."""
    record = _read_experiment(value, key)
    return Experiment(
        experiment_id,
        record.name,
        record.description,
        record.created_us,
        record.archived,
    )


def encode_tag(tag: Tag) -> bytes:
    """Return a tag's record; its id is in the key."""
    return _encoder.encode(
        _TagRecord(
            VERSION,
            tag.name,
            tag.color,
            tag.description,
            tag.archived,
            tag.created_us,
        )
    )


def decode_tag(value: bytes, *, tag_id: str, key: bytes) -> Tag:
    """Return the tag in `value`."""
    record = _read_tag(value, key)
    return Tag(
        tag_id,
        record.name,
        record.color,
        record.description,
        record.archived,
        record.created_us,
    )


def encode_note(note: Note) -> bytes:
    """Return a note's record; its owner and id are in the key."""
    return _encoder.encode(
        _NoteRecord(VERSION, note.content, note.created_us, note.updated_us)
    )


def decode_note(value: bytes, *, owner: tuple[str, str, str], key: bytes) -> Note:
    """Return the note in `value`; `owner` is owner kind, owner id and note id."""
    record = _read_note(value, key)
    owner_kind, owner_id, note_id = owner
    return Note(
        note_id,
        owner_kind,
        owner_id,
        record.content,
        record.created_us,
        record.updated_us,
    )


def encode_artifact(artifact: Artifact) -> bytes:
    """Return an artifact's record."""
    return _encoder.encode(
        _ArtifactRecord(
            VERSION,
            artifact.path,
            artifact.key,
            artifact.content_type,
            artifact.created_us,
        )
    )


def decode_artifact(value: bytes, *, key: bytes) -> Artifact:
    """Return the artifact in `value`."""
    record = _read_artifact(value, key)
    return Artifact(record.path, record.key, record.content_type, record.created_us)


def encode_blob_history(history: BlobHistory) -> bytes:
    """Return the record of a path's uploads."""
    return _encoder.encode(
        _BlobRecord(
            VERSION,
            history.path,
            [(g.session, g.ordinal, bytes.fromhex(g.blob_id)) for g in history.grants],
            [(c.session, c.ordinal, c.series_number, c.step) for c in history.claims],
        )
    )


def decode_blob_history(value: bytes, *, key: bytes) -> BlobHistory:
    """Return the uploads of a path."""
    record = _read_blob(value, key)
    return BlobHistory(
        record.path,
        tuple(
            Grant(session, ordinal, blob_id.hex())
            for session, ordinal, blob_id in record.grants
        ),
        tuple(Claim(*fields) for fields in record.claims),
    )


def encode_tombstone(run: Run, *, deleted_us: int) -> bytes:
    """Return what is kept of a deleted run: when, and the run as it was."""
    record = _TombstoneRecord(
        VERSION, deleted_us, run.number, msgspec.Raw(encode_run(run))
    )
    return _encoder.encode(record)


def decode_tombstone(value: bytes, *, key: bytes) -> tuple[int, Run]:
    """Return when a run was deleted, and the run as it was."""
    record = _read_tombstone(value, key)
    run = decode_run(bytes(record.run), number=record.run_number, key=key)
    return record.deleted_us, run
