"""Series, points and their summaries: columns, never an object per point."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a chart, a table or a query needs of many points without reading them.

    `first`, `last`, `min`, `max` and `sum` are over the values; NaN takes no part in
    `min`, `max` and `sum`; infinities do. All of them are NaN when nothing took part.
    Where several points share the extreme, the earliest step is named.

    Attributes:
        count: Number of points.
        first_step: Least step.
        last_step: Greatest step.
        first: Value at the least step.
        last: Value at the greatest step.
        min: Least value.
        min_step: Its step.
        max: Greatest value.
        max_step: Its step.
        sum: Sum of the values.
        nan_count: Number of NaN values.
        inf_count: Number of infinite values.
        first_non_finite_step: Least step whose value is NaN or infinite, or None.
    """

    count: int
    first_step: int
    last_step: int
    first: float
    last: float
    min: float
    min_step: int
    max: float
    max_step: int
    sum: float
    nan_count: int
    inf_count: int
    first_non_finite_step: int | None


@dataclass(frozen=True, slots=True)
class Series:
    """One series of one run: (run, kind, name, context).

    Attributes:
        run_number: The run's `Run.number`.
        number: Small integer, unique in the run, in order of first appearance.
        kind: One of `matyan_wire.batch.KINDS`.
        name: As tracked.
        context: The context as a mapping.
        context_text: Its canonical JSON text.
        summary: Over all points, those in the tail included; None without points, and
            for object series a summary whose values are NaN.
    """

    run_number: int
    number: int
    kind: str
    name: str
    context: dict[str, object]
    context_text: str
    summary: Summary | None


@dataclass(frozen=True, slots=True)
class Points:
    """Points of one metric series, ascending by step, one per step.

    Attributes:
        steps: n × int64.
        values: n × float64.
        times_us: n × int64, the writer's clock.
        epochs: n × float64, NaN where unknown.
    """

    steps: Int64s
    values: Float64s
    times_us: Int64s
    epochs: Float64s

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, slots=True)
class ObjectPoints:
    """Points of one object series, ascending by step, one per step.

    Attributes:
        steps: n × int64.
        times_us: n × int64, the writer's clock.
        epochs: n × float64, NaN where unknown.
        payloads: n MessagePack values (`matyan_wire.batch.decode_payload`).
    """

    steps: Int64s
    times_us: Int64s
    epochs: Float64s
    payloads: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.steps)
