"""Bodies of the presign routes, checked; what is wrong is answered as a list.

The list has the shape that clients of the JSON protocol know: `{type, loc, msg, input}`
for each field.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from backend.blobs.base import DEFAULT_CONTENT_TYPE
from frontier.http import HttpError
from matyan_wire.blob_paths import normal_blob_path
from matyan_wire.limits import is_run_id

_MAX_SHOWN_CHARS: Final = 2_000
_CONTENT_TYPE: Final = re.compile(r"[ -~]{1,255}\Z")


@dataclass(frozen=True, slots=True)
class PresignBody:
    """A request to upload a blob.

    Attributes:
        run_id: The run.
        artifact_path: The path as the client wrote it.
        path: The path, normal.
        content_type: What the client says it is.
        size: Its bytes, if the client knows them already: then no other number is
            taken.
        multipart: Whether the client can upload in parts.
    """

    run_id: str
    artifact_path: str
    path: str
    content_type: str = DEFAULT_CONTENT_TYPE
    size: int | None = None
    multipart: bool = False


@dataclass(frozen=True, slots=True)
class MultipartBody:
    """A request about an upload in parts.

    Attributes:
        upload: The token that `presign` answered.
        number: Which part, from 1, where one is meant.
    """

    upload: str
    number: int | None = None


def read_presign_body(value: Any) -> PresignBody:
    """Return the request in a JSON value.

    Raises:
        HttpError: 422, with a list of what is wrong.
    """
    fields = _Fields(value)
    run_id = fields.text("run_id")
    artifact_path = fields.text("artifact_path")
    content_type = fields.text("content_type", default=DEFAULT_CONTENT_TYPE)
    size = fields.number("size")
    multipart = fields.get("multipart") is True
    if run_id is not None and not is_run_id(run_id):
        reason = "a run id is 1 to 128 letters, digits, '_', '-' and '.'"
        fields.refuse("run_id", reason)
    path = fields.path("artifact_path", artifact_path)
    if content_type is not None and not _CONTENT_TYPE.match(content_type):
        fields.refuse("content_type", "must be 1 to 255 printable ASCII characters")
    fields.finish()
    return PresignBody(
        run_id or "", artifact_path or "", path, content_type or "", size, multipart
    )


def read_multipart_body(value: Any) -> MultipartBody:
    """Return the request in a JSON value.

    Raises:
        HttpError: 422, with a list of what is wrong.
    """
    fields = _Fields(value)
    upload, number = fields.text("upload"), fields.number("number")
    fields.finish()
    return MultipartBody(upload or "", number)


class _Fields:
    """The fields of a body, and what is wrong with them."""

    def __init__(self, value: Any) -> None:
        self._value = value if isinstance(value, dict) else {}
        self._problems: list[dict[str, Any]] = []
        if not isinstance(value, dict):
            self._note("dict_type", None, "Input should be a valid dictionary", value)

    def get(self, name: str) -> Any:
        return self._value.get(name)

    def text(self, name: str, *, default: str | None = None) -> str | None:
        """Return a text; None, noted, if there is none."""
        if name not in self._value:
            if default is None:
                self._note("missing", name, "Field required", self._value)
            return default
        value = self._value[name]
        if not isinstance(value, str):
            self._note("string_type", name, "Input should be a valid string", value)
            return None
        return value

    def number(self, name: str) -> int | None:
        """Return an integer of 0 or more, None if there is none."""
        value = self._value.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            reason = "Input should be an integer of 0 or more"
            self._note("int_type", name, reason, value)
            return None
        return value

    def path(self, name: str, value: str | None) -> str:
        """Return a path, normal; "", noted, if it cannot be one."""
        try:
            return "" if value is None else normal_blob_path(value)
        except ValueError as error:
            self.refuse(name, str(error))
            return ""

    def refuse(self, name: str, reason: str) -> None:
        """Note that a field's value cannot be meant."""
        shown = ascii(self._value.get(name))[:200]
        self._note("value_error", name, f"Value error, {reason}", shown)

    def finish(self) -> None:
        """Raise what has been noted."""
        if self._problems:
            first = self._problems[0]
            message = f"{'.'.join(first['loc'][1:]) or 'body'}: {first['msg']}"
            raise HttpError(422, "validation_error", message, detail=self._problems)

    def _note(self, kind: str, name: str | None, message: str, value: Any) -> None:
        place = ["body"] if name is None else ["body", name]
        problem = {"type": kind, "loc": place, "msg": message, "input": _shown(value)}
        self._problems.append(problem)


def _shown(value: Any) -> Any:
    """Return what of an input is sent back: nothing of one that is large or deep."""
    try:
        return value if len(json.dumps(value)) <= _MAX_SHOWN_CHARS else None
    except RecursionError:
        return None
