"""Messages of the JSON protocol, as the WebSocket carries them.

A frame is one message or an array of them. `type` tells them apart. Every message may
carry `run_id`, which is ignored (the URL names the run), and keys unknown here, which
are ignored too. These structs are the strict form: what the usual clients send. What is
only convertible (numeric strings, epoch numbers for times, NaN) is brought into this
form by `json_lax`.

Design note: docs/subsystems/wire.md#json-protocol
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from matyan_wire import limits
from matyan_wire.batch import AUTO_STEP

MIN_STEP: Final = AUTO_STEP + 1
MAX_STEP: Final = 2**63 - 1

Step = Annotated[int, msgspec.Meta(ge=MIN_STEP, le=MAX_STEP)]
# Naive times are UTC; arithmetic with them differs, so they take the other path.
Time = Annotated[datetime, msgspec.Meta(tz=True)]
Name = Annotated[
    str, msgspec.Meta(min_length=1, max_length=limits.MAX_SERIES_NAME_BYTES)
]


class _Message(msgspec.Struct, tag_field="type"):
    pass


class CreateRunMessage(_Message, tag="create_run"):
    """Open or resume the run."""

    client_datetime: Time | None = None
    force_resume: bool = False


class LogMetricMessage(_Message, tag="log_metric"):
    """One point of a metric; `context` is undecoded JSON."""

    name: Name
    value: float
    step: Step | None = None
    epoch: float | None = None
    context: msgspec.Raw = msgspec.Raw(b"null")
    dtype: str | None = None
    client_datetime: Time | None = None


class LogHparamsMessage(_Message, tag="log_hparams"):
    """An assignment to the run's attributes, as nested objects."""

    value: dict[str, Any]


class FinishRunMessage(_Message, tag="finish_run"):
    """The run has ended."""

    client_datetime: Time | None = None


class SetRunPropertyMessage(_Message, tag="set_run_property"):
    """New values of run properties; None leaves one as it is."""

    name: str | None = None
    description: str | None = None
    experiment: str | None = None
    archived: bool | None = None


class AddTagMessage(_Message, tag="add_tag"):
    """Attach a tag by name."""

    tag_name: str


class RemoveTagMessage(_Message, tag="remove_tag"):
    """Detach a tag by name."""

    tag_name: str


class LogCustomObjectMessage(_Message, tag="log_custom_object"):
    """One object of a sequence; `dtype` or `value["type"]` tells its kind."""

    name: Name
    value: dict[str, Any]
    step: Step | None = None
    epoch: float | None = None
    context: dict[str, Any] | None = None
    dtype: str | None = "custom"
    client_datetime: Time | None = None


class LogTerminalLineMessage(_Message, tag="log_terminal_line"):
    """One line of the terminal."""

    line: str
    step: Step


class LogRecordMessage(_Message, tag="log_record"):
    """One record of the run's log; `timestamp` in seconds since the epoch."""

    message: str
    level: Step
    timestamp: float
    logger_info: list[Any] | None = None
    extra_args: dict[str, Any] | None = None


class BlobRefMessage(_Message, tag="blob_ref"):
    """A blob has been uploaded."""

    s3_key: str
    artifact_path: str
    content_type: str = "application/octet-stream"


Message = (
    CreateRunMessage
    | LogMetricMessage
    | LogHparamsMessage
    | FinishRunMessage
    | SetRunPropertyMessage
    | AddTagMessage
    | RemoveTagMessage
    | LogCustomObjectMessage
    | LogTerminalLineMessage
    | LogRecordMessage
    | BlobRefMessage
)

OBJECT_KIND_BY_DTYPE: Final = {
    "image": "images",
    "audio": "audios",
    "text": "texts",
    "distribution": "distributions",
    "figure": "figures",
    "images": "images",
    "audios": "audios",
    "texts": "texts",
    "distributions": "distributions",
    "figures": "figures",
}
"""Kind of series by `dtype`; restored backups use the plural."""
