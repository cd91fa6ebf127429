"""Kombu's `filesystem://` transport, made safe against its own readers.

The stock transport writes a message into the directory that consumers watch, so one may
take a file that is not written yet, and ends on it. Here a message appears whole, by a
rename, and names sort by the wall clock, so that messages of before a restart of the
machine come first.

Importing the module puts it behind `filesystem://`.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any, Final

from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import filesystem as stock
from typing_extensions import override

SUFFIX: Final = ".msg"
LONGEST_WAIT_S: Final = 0.5


class Channel(stock.Channel):
    """One connection's view of the directory."""

    @override
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call] # kombu's
        for directory in (self.data_folder_in, self.data_folder_out):
            Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.control_folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @override
    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override] # as in the stock one
        """Add a message; it is visible once it is complete.

        Raises:
            ChannelError: If the directory cannot be written.
        """
        name = f"{time.time_ns():020d}_{uuid.uuid4().hex}.{queue}{SUFFIX}"
        directory = Path(self.data_folder_out)
        fresh = directory / f".{name}"
        try:
            fresh.write_text(json.dumps(payload))
            fresh.replace(directory / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            msg = f"Cannot write to {directory}: {error.strerror}"
            raise ChannelError(msg) from error

    @override
    def _get(self, queue: str, timeout: Any = None) -> Any:
        """Take the oldest message.

        Raises:
            Empty: If there is none.
        """
        directory = Path(self.data_folder_in)
        for path in sorted(directory.glob(f"*.{queue}{SUFFIX}")):
            if path.name.startswith("."):
                continue
            taken = path.with_name(f".taken_{path.name}")
            try:
                path.rename(taken)
                text = taken.read_text()
                taken.unlink()
                return json.loads(text)
            except (FileNotFoundError, ValueError):
                continue  # another consumer was faster, or it is no message
        raise Empty


class Transport(stock.Transport):
    """`filesystem://` with the channel above."""

    Channel = Channel

    @override
    def drain_events(self, connection: Any, timeout: Any = None, **_: Any) -> None:
        """Handle one message, or raise `TimeoutError` soon: workers stop."""
        longest_s = LONGEST_WAIT_S if timeout is None else min(timeout, LONGEST_WAIT_S)
        super().drain_events(connection, timeout=longest_s)  # type: ignore[no-untyped-call] # kombu's


TRANSPORT_ALIASES["filesystem"] = f"{__name__}:Transport"
