"""What the parts of a `Run` share: its id, its two sides, what was said here.

`Run` is put together from `run_tracking`, `run_properties` and `run_files`: a class
each, on this one.

Design note: docs/subsystems/sdk.md
"""

from __future__ import annotations

from typing import Any

from matyan_client import attributes
from matyan_client.reading import RunReader
from matyan_client.writing import RunWriter


class RunBase:
    """The state of a run's parts.

    Attributes:
        _hash: The run's id.
        _created: Whether it was made here.
        _writer: The writing side, None in a run that is read only.
        _reader: The reading side.
        _overlay: Attributes assigned and deleted here.
        _properties: Properties set here.
        _opened_s, _closed_s: When, in seconds since the epoch.
    """

    _hash: str
    _created: bool
    _writer: RunWriter | None
    _reader: RunReader
    _overlay: attributes.Overlay
    _properties: dict[str, Any]
    _opened_s: float
    _closed_s: float | None

    @property
    def hash(self) -> str:
        """The run's id."""
        return self._hash

    def _writing(self) -> RunWriter:
        if self._writer is None:
            msg = f"run {self._hash} is read-only; open it with Run({self._hash!r})"
            raise RuntimeError(msg)
        return self._writer

    def _is_own(self) -> bool:
        """Whether nobody else can have written to the run."""
        return self._created and self._writer is not None and not self._writer.forked
