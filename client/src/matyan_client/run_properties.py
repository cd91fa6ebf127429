"""A run's attributes, properties and tags: set here, and read back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from time import time_ns
from typing import Any, Final, cast

from matyan_client import attributes
from matyan_client.attributes import Key
from matyan_client.run_base import RunBase
from matyan_client.series_refs import Context
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
)

_TEXT_PROPERTIES: Final[dict[str, Callable[[str], SetProperties]]] = {
    "name": lambda text: SetProperties(name=text),
    "description": lambda text: SetProperties(description=text),
    "experiment": lambda text: SetProperties(experiment=text),
}


class PropertiesPart(RunBase):
    """What a run is known by, and what the server says of it."""

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

    # Properties.

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
        check_property(name, value, limit)
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
        return float(self._reader.props().get("creation_time") or math.nan)

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

    # Series.

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


def check_property(name: str, value: Any, limit: int) -> None:
    """Check a property's text.

    Raises:
        TypeError: If it is none.
        ValueError: If it takes more than `limit` bytes.
    """
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
