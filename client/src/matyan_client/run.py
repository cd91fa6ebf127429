"""`Run`: one training run, written from here and read back from the server.

Writing never raises because of the network or the disk, and never waits for them:
everything goes to a local log that outlives the process, and a thread of its own takes
it to the server. Only misuse raises (TypeError, ValueError, RuntimeError).

Design note: docs/subsystems/sdk.md
"""

from __future__ import annotations

import math
import operator
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, SupportsFloat, cast

from typing_extensions import override

from matyan_client import (
    _env,
    artifacts,
    attributes,
    console,
    lifecycle,
    objects,
    system,
)
from matyan_client.access import choose_endpoints
from matyan_client.attributes import Key
from matyan_client.media import Audio, Image, Media
from matyan_client.reading import RunReader
from matyan_client.terminal import TerminalCapture
from matyan_client.writing import Context, Delivery, Opening, RunWriter
from matyan_wire.batch import (
    AddTag,
    DeleteAttributes,
    RemoveTag,
    SetAttributes,
    SetProperties,
)
from matyan_wire.limits import (
    MAX_DESCRIPTION_BYTES,
    MAX_ENTITY_NAME_BYTES,
    MAX_TAG_NAME_BYTES,
    is_run_id,
)

if TYPE_CHECKING:
    from matyan_client.repo import Repo

CLOSE_BUDGET_S: Final = 10.0
STRICT_TIMEOUT_S: Final = 15.0
BLOCK_STALL_S: Final = 120.0
"""How long nothing may get on while somebody waits for an upload."""

_NAN: Final = math.nan
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_TEXT_PROPERTIES: Final[dict[str, Callable[[str], SetProperties]]] = {
    "name": lambda text: SetProperties(name=text),
    "description": lambda text: SetProperties(description=text),
    "experiment": lambda text: SetProperties(experiment=text),
}
_POLL_DURABLE_S: Final = 0.05


class Run:
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
            _check_property("experiment", experiment, MAX_ENTITY_NAME_BYTES)
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

    def _writing(self) -> RunWriter:
        if self._writer is None:
            msg = f"run {self._hash} is read-only; open it with Run({self._hash!r})"
            raise RuntimeError(msg)
        return self._writer

    # Tracking.

    def track(
        self,
        value: Any,
        name: str | None = None,
        step: int | None = None,
        epoch: float | None = None,
        *,
        context: Context | None = None,
    ) -> None:
        """Store one point, a mapping of points, or one object.

        It is in the local log when this returns: it survives the process, whatever
        kills it. Nothing is raised for the network or the disk; what the local log has
        no room for is counted in `delivery.dropped`. Safe from any thread.

        Args:
            value: A number (NaN and infinities are data), a mapping of names to
                numbers, an object such as `Text` or `Image`, or a list of `Text`,
                `Image` or `Audio` objects of one class.
            name: The series; not given with a mapping.
            step: Its place; None counts from 0 in each series, or goes on behind the
                greatest in a run that is resumed.
            epoch: The training epoch, may be fractional.
            context: What else tells the series apart, e.g. `{"subset": "train"}`.

        Raises:
            TypeError, ValueError: If an argument cannot be used.
            RuntimeError: If the run is closed or read-only.
        """
        if type(value) is not float:
            if not isinstance(value, (int, float)):
                kind = getattr(value, "kind", None)
                if isinstance(value, Mapping):
                    points = cast("Mapping[str, Any]", value)
                    self._track_mapping(points, name, step, epoch, context)
                    return
                if isinstance(kind, str) and callable(getattr(value, "json", None)):
                    self._track_object(value, name, step, epoch, context)
                    return
                if isinstance(value, (list, tuple)) and value:
                    items = cast("Sequence[object]", value)
                    self._track_list(items, name, step, epoch, context)
                    return
            value = _number(value, name)
        if step is not None and type(step) is not int:
            step = _step(step)
        try:
            self._store(
                value,
                name,
                step,
                _NAN if epoch is None else epoch,
                context,
                time_ns() // 1000,
            )
        except AttributeError:
            self._writing()
            raise

    def _track_mapping(
        self,
        values: Mapping[str, Any],
        name: str | None,
        step: int | None,
        epoch: float | None,
        context: Context | None,
    ) -> None:
        if name is not None:
            msg = "track() takes a mapping of names to values, or a name, not both"
            raise ValueError(msg)
        # All are checked before the first is stored: a mapping is stored whole.
        numbers = [
            (key, value if type(value) is float else _number(value, key))
            for key, value in values.items()
        ]
        if step is not None and type(step) is not int:
            step = _step(step)
        age = _NAN if epoch is None else epoch
        now_us = time_ns() // 1000
        store = self._writing().track
        for key, number in numbers:
            store(number, key, step, age, context, now_us)

    def _track_object(
        self,
        value: objects.TrackedObject | Media,
        name: str | None,
        step: int | None,
        epoch: float | None,
        context: Context | None,
    ) -> None:
        place = _place(step, epoch)
        if isinstance(value, Media):
            self._writing().write_media(
                name, [value], is_list=False, context=context, **place
            )
            return
        encoded = objects.encode_object(value)
        self._writing().write_object(
            value.kind, name, encoded, context=context, **place
        )

    def _track_list(
        self,
        values: Sequence[object],
        name: str | None,
        step: int | None,
        epoch: float | None,
        context: Context | None,
    ) -> None:
        kind = type(values[0])
        if not issubclass(kind, (Image, Audio, objects.Text)) or any(
            type(value) is not kind for value in values
        ):
            msg = (
                f"{name!r}: a list holds Image, Audio or Text objects, all of one "
                f"class; this one begins with {kind.__name__}"
            )
            raise TypeError(msg)
        place = _place(step, epoch)
        if issubclass(kind, Media):
            items = list(cast("Sequence[Media]", values))
            self._writing().write_media(
                name, items, is_list=True, context=context, **place
            )
            return
        texts = [value.json() for value in cast("Sequence[objects.Text]", values)]
        encoded = objects.encode_stored(texts)
        self._writing().write_object(
            objects.Text.kind, name, encoded, context=context, **place
        )

    # Attributes.

    def __setitem__(self, key: Key, value: Any) -> None:
        path = attributes.parse_key(key)
        plain, encoded = attributes.encode_value(path, value)
        self._writing().write(SetAttributes([(list(path), encoded)]))
        self._overlay.assign(path, plain)

    def __getitem__(self, key: Key) -> Any:
        path = attributes.parse_key(key)
        return attributes.find(self._attributes(), path)

    def __delitem__(self, key: Key) -> None:
        path = attributes.parse_key(key)
        self._writing().write(DeleteAttributes([list(path)]))
        self._overlay.delete(path)

    def set(self, key: Key, value: Any) -> None:
        """Assign an attribute; replaces what stands there, nothing above.

        Raises:
            TypeError, ValueError: If key or value cannot be stored.
            RuntimeError: If the run is closed or read-only.
        """
        self[key] = value

    def get(self, key: Key, default: Any = None) -> Any:
        """Return an attribute, or `default`."""
        try:
            return self[key]
        except KeyError:
            return default

    def _attributes(self) -> dict[str, Any]:
        stored: Mapping[str, Any] = {} if self._is_own() else self._reader.params()
        return self._overlay.apply(stored)

    def _is_own(self) -> bool:
        """Whether nobody else can have written to the run."""
        return self._created and self._writer is not None and not self._writer.forked

    # Properties.

    @property
    def hash(self) -> str:
        """The run's id."""
        return self._hash

    @property
    def name(self) -> str | None:
        """The run's name."""
        return cast("str | None", self._property("name", f"Run: {self._hash}"))

    @name.setter
    def name(self, value: str) -> None:
        self._set_text("name", value, MAX_ENTITY_NAME_BYTES)

    @property
    def description(self) -> str | None:
        """The run's description."""
        return cast("str | None", self._property("description", ""))

    @description.setter
    def description(self, value: str) -> None:
        self._set_text("description", value, MAX_DESCRIPTION_BYTES)

    @property
    def experiment(self) -> str | None:
        """Name of the run's experiment."""
        if "experiment" in self._properties or self._is_own():
            return cast("str | None", self._properties.get("experiment"))
        props = self._reader.props()
        found = cast("dict[str, str | None] | None", props.get("experiment"))
        return found.get("name") if found else None

    @experiment.setter
    def experiment(self, value: str) -> None:
        self._set_text("experiment", value, MAX_ENTITY_NAME_BYTES)

    @property
    def archived(self) -> bool | None:
        """Whether the run is archived."""
        return cast("bool | None", self._property("archived", default=False))

    @archived.setter
    def archived(self, value: bool) -> None:
        self._writing().write(SetProperties(archived=bool(value)))
        self._properties["archived"] = bool(value)

    def _property(self, name: str, default: Any) -> Any:
        if name in self._properties:
            return self._properties[name]
        return default if self._is_own() else self._reader.props().get(name)

    def _set_text(self, name: str, value: Any, limit: int) -> None:
        _check_property(name, value, limit)
        self._writing().write(_TEXT_PROPERTIES[name](value))
        self._properties[name] = value

    def add_tag(self, value: str) -> None:
        """Attach a tag; it is created if missing.

        Raises:
            TypeError, ValueError: If it cannot be a tag's name.
            RuntimeError: If the run is closed or read-only.
        """
        self._writing().write(AddTag(_check_tag(value)))

    def remove_tag(self, name: str) -> None:
        """Detach a tag; nothing happens if it is not attached.

        Raises:
            TypeError, ValueError: If it cannot be a tag's name.
            RuntimeError: If the run is closed or read-only.
        """
        self._writing().write(RemoveTag(_check_tag(name)))

    @property
    def tags(self) -> list[str]:
        """Names of the tags the server knows of; empty if it cannot be asked."""
        found = cast("list[dict[str, str]]", self._reader.props().get("tags") or [])
        return [tag["name"] for tag in found]

    @property
    def props(self) -> dict[str, Any]:
        """Everything the server says of the run; empty if it cannot be asked."""
        return self._reader.props()

    @property
    def artifacts(self) -> list[dict[str, Any]]:
        """Artifacts the server knows of: name, path, uri."""
        return self._reader.artifacts()

    @property
    def creation_time(self) -> float:
        """When the run began, seconds since the epoch; NaN if that is not known."""
        if self._is_own():
            return self._opened_s
        return float(self._reader.props().get("creation_time") or _NAN)

    @property
    def created_at(self) -> datetime | None:
        """When the run began, UTC."""
        seconds = self.creation_time
        return None if math.isnan(seconds) else attributes.from_epoch(seconds)

    @property
    def end_time(self) -> float | None:
        """When the run ended, seconds since the epoch; None while it is active."""
        if self._closed_s is not None or self._is_own():
            return self._closed_s
        found = self._reader.props().get("end_time")
        return None if found is None else float(found)

    @property
    def finalized_at(self) -> datetime | None:
        """When the run ended, UTC; None while it is active."""
        seconds = self.end_time
        return None if seconds is None else attributes.from_epoch(seconds)

    @property
    def duration(self) -> float:
        """Seconds from the beginning to the end, or to now."""
        end = self.end_time
        return (time_ns() / 1e9 if end is None else end) - self.creation_time

    @property
    def active(self) -> bool:
        """Whether the run goes on."""
        if self._writer is not None:
            return not self._writer.closed
        return bool(self._reader.props().get("active"))

    # Reading.

    def metrics(self) -> list[dict[str, Any]]:
        """Return the metric series: `{name, context, last_value}` each."""
        return self._reader.traces("metric")

    def get_metric(
        self, name: str, context: Context | None = None
    ) -> dict[str, Any] | None:
        """Return one metric series as `metrics()` gives it, None if there is none."""
        wanted = (name, dict(context or {}))
        found = (
            trace
            for trace in self.metrics()
            if (trace["name"], trace["context"]) == wanted
        )
        return next(found, None)

    def collect_sequence_info(self, types: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return all series by sequence type, or those of `types`."""
        return self._reader.all_traces(types)

    # Artifacts.

    def log_artifact(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        block: bool = False,  # noqa: FBT001, FBT002 - as Aim has it
    ) -> bool:
        """Upload a file as an artifact of the run, in the background.

        What is uploaded is the file as it is now, if it is at most 64 MB
        (`MATYAN_UPLOAD_COPY_MAX_BYTES`) or the file system can clone it: then the local
        log has a copy. A larger one is uploaded from where it is, and must stay as it
        is until it is uploaded: if it is changed, it is not uploaded, which is said
        and counted in `delivery.dropped`. It may be renamed or deleted, if the local
        log is on the same file system.

        The upload outlives the process, as points do. Logging a name again replaces
        the artifact.

        Args:
            path: The file.
            name: What it is called in the run, "/" between components; the file's own
                name by default.
            block: Whether to wait until it is uploaded, or nothing has got on for
                two minutes.

        Returns:
            Without `block`, whether the local log took it; with it, whether the blob
            store did.

        Raises:
            TypeError, ValueError: If the name cannot be used.
            OSError: If there is no such file, or it cannot be read.
            RuntimeError: If the run is closed or read-only.
        """
        source = Path(path)
        writing = self._writing()
        target = artifacts.artifact_path(source.name if name is None else name)
        if source.is_dir():
            msg = f"{source} is a directory; use log_artifacts()"
            raise IsADirectoryError(msg)
        indices = self._log_files(writing, [(target, source)])
        if not block:
            return bool(indices)
        return bool(writing.wait_uploaded(indices, stall_s=BLOCK_STALL_S))

    def log_artifacts(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        block: bool = False,  # noqa: FBT001, FBT002 - as Aim has it
    ) -> int:
        """Upload the files below a directory, as `log_artifact` does each.

        Args:
            path: The directory.
            name: Put before the files' relative paths.
            block: Whether to wait until they are uploaded.

        Returns:
            How many were taken, or with `block` uploaded.

        Raises:
            TypeError, ValueError: If a name cannot be used; then nothing is uploaded.
            OSError: If there is no such directory, or a file cannot be read.
            RuntimeError: If the run is closed or read-only.
        """
        directory = Path(path)
        writing = self._writing()
        if not directory.is_dir():
            msg = f"{directory} is no directory"
            raise NotADirectoryError(msg)
        prefix = "" if name is None else f"{artifacts.artifact_path(name)}/"
        found = [
            (artifacts.artifact_path(prefix + relative), file)
            for relative, file in artifacts.iter_files(directory)
        ]
        indices = self._log_files(writing, found)
        if not block:
            return len(indices)
        return writing.wait_uploaded(indices, stall_s=BLOCK_STALL_S)

    def _log_files(
        self, writing: RunWriter, files: Sequence[tuple[str, Path]]
    ) -> list[int]:
        indices: list[int] = []
        for target, source in files:
            kind = artifacts.guess_content_type(target)
            index = writing.write_file(target, source, content_type=kind)
            if index is not None:
                indices.append(index)
        return indices

    def get_artifact(self, name: str) -> bytes:
        """Return an artifact's bytes. For large ones there is `download_artifact`.

        Raises:
            NotFoundError: If the server does not have it (yet).
            ServerError: If the server cannot be asked.
        """
        return b"".join(self._reader.iter_artifact(artifacts.artifact_path(name)))

    def download_artifact(self, name: str, dest: str | os.PathLike[str]) -> Path:
        """Write an artifact to a file, whole or not at all; return its path.

        Args:
            name: The artifact.
            dest: The file, or a directory that is there already: then the artifact's
                last component names the file.

        Raises:
            NotFoundError: If the server does not have it (yet).
            ServerError: If the server cannot be asked, or stops in the middle.
            OSError: If the file cannot be written.
        """
        path = artifacts.artifact_path(name)
        target = Path(dest)
        if target.is_dir():
            target /= path.rpartition("/")[2]
        return self._reader.download(path, target)

    def download_artifacts(self, dest_dir: str | os.PathLike[str]) -> list[Path]:
        """Write all artifacts below a directory; return the files' paths.

        Raises:
            NotFoundError: If the server does not have the run.
            ServerError: If the server cannot be asked, or stops in the middle.
            ValueError: If an artifact's path leads out of the directory.
            OSError: If a file cannot be written.
        """
        directory = Path(dest_dir)
        paths = self._reader.list_artifacts()
        targets = [artifacts.local_path(directory, path) for path in paths]
        return [
            self._reader.download(path, target)
            for path, target in zip(paths, targets, strict=True)
        ]

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
            "args": attributes.to_plain(kwargs, where="kwargs") or None,
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
            self._writer.track(value, name, None, _NAN, context, time_ns() // 1000)

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
    def __repr__(self) -> str:
        return f"Run({self._hash!r}, repo={str(self._reader.backend)!r})"


def _place(step: int | None, epoch: float | None) -> dict[str, Any]:
    """Return step and epoch as the writer takes them.

    Raises:
        TypeError: If they are no numbers.
    """
    return {
        "step": None if step is None else _step(step),
        "epoch": _NAN if epoch is None else float(epoch),
    }


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


def _check_property(name: str, value: Any, limit: int) -> None:
    if not isinstance(value, str):
        msg = f"a run's {name} is text, not {type(value).__name__}"
        raise TypeError(msg)
    if len(value.encode()) > limit:
        msg = f"a run's {name} takes at most {limit} bytes"
        raise ValueError(msg)


def _check_tag(name: Any) -> str:
    if not isinstance(name, str):
        msg = f"a tag's name is text, not {type(name).__name__}"
        raise TypeError(msg)
    if not name.strip() or len(name.encode()) > MAX_TAG_NAME_BYTES:
        msg = f"a tag's name has 1 to {MAX_TAG_NAME_BYTES} bytes"
        raise ValueError(msg)
    return name


def _number(value: Any, name: object) -> float:
    if isinstance(value, (str, bytes, bytearray)):
        msg = f"{name!r}: {type(value).__name__} is not a number; wrap text in Text()"
        raise TypeError(msg)
    try:
        return float(cast("SupportsFloat", value))
    except OverflowError as error:
        msg = f"{name!r}: {value} is too large for a float64"
        raise ValueError(msg) from error
    except TypeError as error:
        msg = (
            f"{name!r}: a {type(value).__name__} cannot be tracked; give a number, a "
            "mapping of numbers, or Image, Audio, Text, Distribution or Figure"
        )
        raise TypeError(msg) from error


def _step(step: Any) -> int:
    try:
        return operator.index(step)
    except TypeError:
        if isinstance(step, float) and step.is_integer():
            return int(step)
        convert: Callable[[], Any] | None = getattr(step, "item", None)
        if convert is not None:
            return _step(convert())
        msg = f"a step is a whole number, not {step!r}"
        raise TypeError(msg) from None
