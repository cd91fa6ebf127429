"""A run's points: `track()` and what may be given to it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from time import time_ns
from typing import Any, Final, SupportsFloat, cast

from matyan_client import objects
from matyan_client.media import Audio, Image, Media
from matyan_client.run_base import RunBase
from matyan_client.series_refs import Context

_NAN: Final = math.nan


class TrackingPart(RunBase):
    """Stores points and objects."""

    _store: Callable[[float, Any, int | None, float, Context | None, int], None]

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


def _place(step: int | None, epoch: float | None) -> dict[str, Any]:
    """Return step and epoch as the writer takes them.

    Raises:
        TypeError: If they are no numbers.
    """
    return {
        "step": None if step is None else _step(step),
        "epoch": _NAN if epoch is None else float(epoch),
    }


def _number(value: Any, name: object) -> float:
    if isinstance(value, (str, bytes, bytearray)):
        msg = f"{name!r}: {type(value).__name__} is not a number; wrap text in Text()"
        raise TypeError(msg)
    try:
        return float(cast("SupportsFloat", value))
    except OverflowError as error:
        msg = f"{name!r}: {_shown(value)} is too large for a float64"
        raise ValueError(msg) from error
    except TypeError as error:
        wrap = objects.how_to_wrap(cast("object", value))
        if wrap is not None:
            msg = f"{name!r}: {wrap}"
            raise TypeError(msg) from error
        msg = (
            f"{name!r}: a {type(value).__name__} cannot be tracked; give a number, a "
            "mapping of numbers, or Image, Audio, Text, Distribution or Figure"
        )
        raise TypeError(msg) from error


def _shown(value: object) -> str:
    # Python refuses to write an int of thousands of digits; nobody reads hundreds.
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an int of {value.bit_length()} bits"
    return str(value)


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
