"""`Run`: one training run, written from here and read back from the server.

Writing never raises because of the network or the disk, and never waits for them:
everything goes to a local log that outlives the process, and a thread of its own takes
it to the server. Only misuse raises (TypeError, ValueError, RuntimeError).

Design note: docs/subsystems/sdk.md
"""

from __future__ import annotations

import math
import sys
import threading
import time
import uuid
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from matyan_client import _env, attributes, console, lifecycle, system
from matyan_client.access import choose_endpoints
from matyan_client.outlet import Delivery, Opening
from matyan_client.reading import RunReader
from matyan_client.run_files import FilesPart
from matyan_client.run_properties import PropertiesPart, check_property
from matyan_client.run_tracking import TrackingPart
from matyan_client.terminal import TerminalCapture
from matyan_client.writing import RunWriter
from matyan_wire.limits import MAX_ENTITY_NAME_BYTES, is_run_id

if TYPE_CHECKING:
    from matyan_client.repo import Repo

CLOSE_BUDGET_S: Final = 10.0
STRICT_TIMEOUT_S: Final = 15.0

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_POLL_DURABLE_S: Final = 0.05


class Run(TrackingPart, PropertiesPart, FilesPart):
    """A run.

    Args:
        run_hash: The run's id: 1 to 128 of letters, digits, `_`, `.`, `-`. None makes a
            new one; an id that exists is resumed and nothing of it is lost.
        repo: Address of the server; else MATYAN_BACKEND_URL, else localhost.
        frontier_url: Address of the gateway, where it is not the server's own.
        read_only: Whether to read only; nothing is sent, not even `create_run`.
        experiment: Name of the experiment to put the run into.
        force_resume: Whether a finished run becomes active again.
        system_tracking_interval: Seconds between samples of the machine, None for off.
        log_system_params: Whether to store executable, packages, environment and git.
        capture_terminal_logs: Whether to store what the process prints.
        token: Lets one in where the server asks for it; else the address's own, else
            MATYAN_TOKEN.
        ca_bundle: PEM file of certificates to trust besides the usual; else
            MATYAN_CA_BUNDLE.
        verify: Whether the server's certificate is checked; else MATYAN_TLS_VERIFY.

    Raises:
        TypeError, ValueError: If an argument cannot be used.
        ConnectionError: With MATYAN_STRICT=1 only, if the server cannot be reached.
    """

    def __init__(  # noqa: PLR0913 - the published signature
        self,
        run_hash: str | None = None,
        *,
        repo: str | Repo | None = None,
        frontier_url: str | None = None,
        read_only: bool = False,
        experiment: str | None = None,
        force_resume: bool = False,
        system_tracking_interval: float | None = None,
        log_system_params: bool = False,
        capture_terminal_logs: bool = True,
        token: str | None = None,
        ca_bundle: str | None = None,
        verify: bool | None = None,
    ) -> None:
        self._hash = _check_hash(run_hash)
        # Everything that can be refused is refused before anything is begun.
        interval_s = system.check_interval(system_tracking_interval)
        strict, terminal = _env.STRICT.get(), _env.CAPTURE_TERMINAL.get()
        if experiment is not None:
            check_property("experiment", experiment, MAX_ENTITY_NAME_BYTES)
        endpoints = choose_endpoints(
            repo, frontier_url, token=token, ca_bundle=ca_bundle, verify=verify
        )
        self._read_only = read_only
        self._created = run_hash is None
        self._overlay = attributes.Overlay()
        self._properties: dict[str, Any] = {}
        self._opened_s = time_ns() / 1e9
        self._closed_s: float | None = None
        self._terminal: TerminalCapture | None = None
        self._tracker: system.SystemTracker | None = None
        self._collector: threading.Thread | None = None
        self._writer: RunWriter | None = None
        self._reader = RunReader(self._hash, endpoints.backend)
        if read_only:
            return
        self._writer = RunWriter(
            Opening(self._hash, endpoints, not self._created, force_resume)
        )
        self._store = self._writer.track
        lifecycle.register(self)
        lifecycle.unregister(self._writer)
        if experiment is not None:
            self.experiment = experiment
        self._start_helpers(
            interval_s,
            params=log_system_params,
            terminal=capture_terminal_logs and terminal,
        )
        if strict:
            self._require_connection()

    def _start_helpers(
        self, interval_s: float | None, *, params: bool, terminal: bool
    ) -> None:
        if terminal:
            self._terminal = TerminalCapture(
                self._store_line, self._count_dropped_lines
            )
        if params:
            self._collector = threading.Thread(
                target=self._store_system_params, name="matyan-params", daemon=True
            )
            self._collector.start()
        if interval_s is not None:
            self._tracker = system.SystemTracker(interval_s, self._store_sample)

    def _require_connection(self) -> None:
        progress = self._writing().wait_connected(STRICT_TIMEOUT_S)
        if not progress.connected:
            self._stop_helpers()
            self.close(timeout=0)
            problem = progress.problem or f"no connection in {STRICT_TIMEOUT_S:.0f} s"
            raise ConnectionError(problem)

    # Logs.

    def log_debug(self, msg: str, **kwargs: Any) -> None:
        """Store a log record of level DEBUG; `kwargs` are kept with it."""
        self._log("debug", msg, kwargs)

    def log_info(self, msg: str, **kwargs: Any) -> None:
        """Store a log record of level INFO; `kwargs` are kept with it."""
        self._log("info", msg, kwargs)

    def log_warning(self, msg: str, **kwargs: Any) -> None:
        """Store a log record of level WARNING; `kwargs` are kept with it."""
        self._log("warning", msg, kwargs)

    def log_error(self, msg: str, **kwargs: Any) -> None:
        """Store a log record of level ERROR; `kwargs` are kept with it."""
        self._log("error", msg, kwargs)

    def _log(self, level: str, message: str, kwargs: dict[str, Any]) -> None:
        caller = sys._getframe(2)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        record = {
            "message": str(message),
            "log_level": _LEVELS[level],
            "timestamp": time_ns() / 1e9,
            "args": attributes.to_plain_or_repr(kwargs) or None,
            "logger_info": [caller.f_code.co_filename, caller.f_lineno],
        }
        self._writing().write_record(record)

    def _store_line(self, step: int, line: str) -> None:
        if self._writer is not None and not self._writer.closed:
            self._writer.write_object("logs", "logs", line, step=step)

    def _count_dropped_lines(self, count: int) -> None:
        if self._writer is not None:
            self._writer.count_dropped_lines(count)

    def _store_sample(
        self, name: str, value: float, context: dict[str, Any] | None
    ) -> None:
        if self._writer is not None and not self._writer.closed:
            self._writer.track(value, name, None, math.nan, context, time_ns() // 1000)

    def _store_system_params(self) -> None:
        try:
            self["__system_params"] = system.system_params()
        except Exception as error:  # noqa: BLE001 - a nicety must not end training
            console.warn(f"run {self._hash}: no system parameters: {error!r}")

    # Delivery and the end.

    @property
    def delivery(self) -> Delivery:
        """How far this process's data has come: accepted, acknowledged, durable.

        Raises:
            RuntimeError: If the run is read-only.
        """
        return self._writing().delivery

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until the server's event log holds all that was tracked before.

        Returns:
            Whether it does; False when `timeout` seconds were not enough.

        Raises:
            RuntimeError: If the run is read-only.
        """
        return self._writing().flush(timeout_s=timeout)

    def wait_durable(self, timeout: float = 30.0) -> bool:
        """Wait until the store itself holds all that was tracked before.

        Returns:
            Whether it does; False when `timeout` seconds were not enough, when the
            server does not tell, or, at once, when the run was deleted on the server
            (`delivery.problem` says so).

        Raises:
            RuntimeError: If the run is read-only.
        """
        deadline = time.monotonic() + timeout
        writing = self._writing()
        if not writing.flush(timeout_s=timeout):
            return False
        writer, epoch, seq = writing.position()
        while True:
            found = self._reader.watermark(writer)
            if found is not None:
                writing.note_watermark(found)
                if found.deleted_us is not None:
                    return False
                if found[:2] >= (epoch, seq):
                    return True
            if time.monotonic() + _POLL_DURABLE_S > deadline:
                return False
            time.sleep(_POLL_DURABLE_S)

    def close(self, timeout: float = CLOSE_BUDGET_S) -> None:
        """Finish the run and deliver what is left. Idempotent.

        Where the server is quick, a read that follows shows all of it: `close` waits
        for its store, two seconds at most.

        Args:
            timeout: Seconds this may take whatever the server does. What is left then
                stays in the local log and is delivered by a process of its own.
        """
        if self._writer is None or self._writer.closed:
            self._reader.close()
            return
        self._stop_helpers()
        self._closed_s = time_ns() / 1e9
        self._writer.close(timeout_s=timeout)
        lifecycle.unregister(self)
        self._reader.close()

    def _stop_helpers(self) -> None:
        if self._tracker is not None:
            self._tracker.close()
        if self._collector is not None:
            self._collector.join(timeout=2)
        if self._terminal is not None:
            self._terminal.close()

    def after_fork_in_child(self) -> None:
        """Let go of what belongs to the parent. Called at a fork."""
        if self._terminal is not None:
            self._terminal.abandon()
        self._terminal = self._tracker = self._collector = None
        self._reader = RunReader(self._hash, self._reader.backend)
        if self._writer is not None:
            self._writer.after_fork_in_child()

    def at_exit(self) -> None:
        """Close, at the end of the process."""
        try:
            self.close()
        except Exception as error:  # noqa: BLE001 - the exit goes on
            console.say(f"run {self._hash} did not close: {error!r}")

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @override
    def __reduce__(self) -> str | tuple[Any, ...]:
        msg = (
            f"a Run cannot be pickled: it belongs to this process. Open "
            f"Run({self._hash!r}) in the other one; both write to the same run"
        )
        raise TypeError(msg)

    @override
    def __repr__(self) -> str:
        return f"Run({self._hash!r}, repo={str(self._reader.backend)!r})"


def _check_hash(run_hash: Any) -> str:
    if run_hash is None:
        return uuid.uuid4().hex
    if not isinstance(run_hash, str):
        msg = f"a run's id is text, not {type(run_hash).__name__}"
        raise TypeError(msg)
    if not is_run_id(run_hash):
        msg = (
            f"{run_hash!r} cannot be a run's id: 1 to 128 letters, digits, '_', '.' "
            "and '-', and not '.' or '..'"
        )
        raise ValueError(msg)
    return run_hash
