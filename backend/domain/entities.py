"""The small things around runs: experiments, tags, notes, artifacts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Experiment:
    """A named group of runs; names are unique."""

    experiment_id: str
    name: str
    description: str
    created_us: int
    archived: bool = False


@dataclass(frozen=True, slots=True)
class Tag:
    """A label on runs; names are unique."""

    tag_id: str
    name: str
    color: str = ""
    description: str = ""
    archived: bool = False
    created_us: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """A text on a run or on an experiment.

    Attributes:
        owner_kind: "run" or "experiment".
        owner_id: Run id or experiment id.
    """

    note_id: str
    owner_kind: str
    owner_id: str
    content: str
    created_us: int
    updated_us: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file logged to a run.

    Attributes:
        path: As the user named it, relative, "/"-separated.
        key: Key in the blob store.
    """

    path: str
    key: str
    content_type: str
    created_us: int
