"""What the events of a batch do to a run, in the ingestion's transaction.

Everything here may be applied again without changing the result: names are looked up
before they are created, assignments replace, tags are a set, opening an open run leaves
it open. Which openings and frames are new is known to `ingestion`, which calls this.

Times of writers are corrected by the difference of the clocks and never later than the
receipt. A frame that tells when it was sent tells that difference, however long what it
carries has waited to be delivered; of others, the opening is taken to be the receipt.

Design note: docs/subsystems/metadata.md#run-events
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from backend.domain.runs import Run, plausible_offset_us
from backend.errors import InvalidInputError, LimitExceededError
from backend.services.experiments import ensure_experiment
from backend.services.run_blobs import refer_blob
from backend.services.tags import (
    checked_tag_name,
    ensure_tag,
    with_tag,
    without_tag,
)
from backend.services.texts import check_text
from backend.storage.engine.base import Transaction
from backend.storage.repositories.attribute_edit import AttributeEdit
from backend.storage.repositories.runs import MAX_TAGS
from matyan_wire.batch import (
    UNKNOWN_TIME,
    AddTag,
    BlobRef,
    CreateRun,
    DeleteAttributes,
    Event,
    FinishRun,
    RemoveTag,
    SetAttributes,
    SetProperties,
    decode_payload,
)
from matyan_wire.limits import MAX_DESCRIPTION_BYTES, MAX_ENTITY_NAME_BYTES

if TYPE_CHECKING:
    from backend.storage.factory import Store

MIN_CLOCK_OFFSET_US: Final = 2_000_000
"""A smaller difference between the clocks cannot be told from latency."""


def clock_offset_us(*, received_us: int, client_time_us: int) -> int:
    """Return the server's clock minus the writer's.

    0 when it is small, not known, or more than clocks differ by.
    """
    if client_time_us == UNKNOWN_TIME:
        return 0
    offset = plausible_offset_us(received_us - client_time_us)
    return offset if abs(offset) >= MIN_CLOCK_OFFSET_US else 0


@dataclass(frozen=True, slots=True)
class Moment:
    """When a frame was received and sent.

    Attributes:
        received_us: The gateway's clock.
        sent_us: The writer's clock, `UNKNOWN_TIME` if not known.
    """

    received_us: int
    sent_us: int = UNKNOWN_TIME

    def server_us(self, client_time_us: int, *, offset_us: int | None) -> int:
        """Return a moment of the writer on the server's clock, at most the receipt.

        Args:
            client_time_us: The writer's clock then, or `UNKNOWN_TIME`.
            offset_us: The difference of the clocks where the frame does not tell it;
                None if that is not known either.
        """
        if self.sent_us != UNKNOWN_TIME:
            offset_us = clock_offset_us(
                received_us=self.received_us, client_time_us=self.sent_us
            )
        if client_time_us == UNKNOWN_TIME or offset_us is None:
            return self.received_us
        return max(0, min(client_time_us + offset_us, self.received_us))


def ensure_run(
    tr: Transaction,
    store: Store,
    run_id: str,
    moment: Moment,
    *,
    opened_client_us: int = UNKNOWN_TIME,
) -> Run | None:
    """Return the run, created in the transaction if missing; None if it was deleted.

    Args:
        tr: The ingestion's transaction.
        store: The store.
        run_id: The run.
        moment: When the server heard of it.
        opened_client_us: The writer's clock when the run was opened: the creation time
            of a new run, corrected; else that is the receipt. Also tells the clock
            offset if the frame does not say when it was sent.
    """
    run = store.runs.find(tr, run_id)
    if run is not None:
        return run
    if store.runs.find_tombstone(tr, run_id) is not None:
        return None
    return store.runs.create(
        tr,
        run_id=run_id,
        name=f"Run: {run_id}",
        created_us=moment.server_us(opened_client_us, offset_us=None),
        clock_offset_us=clock_offset_us(
            received_us=moment.received_us,
            client_time_us=opened_client_us
            if moment.sent_us == UNKNOWN_TIME
            else moment.sent_us,
        ),
    )


def change_run(
    tr: Transaction, store: Store, run: Run, event: Event, moment: Moment
) -> Run:
    """Apply one event other than those on attributes; return the run as it is then.

    What the run refers to is stored, the run itself is not: the caller saves it once
    after many events. `CreateRun` must be given only for an opening that has not been
    applied; in the record that creates the run it changes nothing more.

    Raises:
        InvalidInputError, LimitExceededError: If the event can never be applied. Then
            nothing of it has been written.
    """
    return _CHANGE[type(event)](tr, store, run, event, moment)


def change_attributes(
    edit: AttributeEdit, event: SetAttributes | DeleteAttributes
) -> None:
    """Apply an event on attributes to a tree that the caller stores after many.

    Raises:
        InvalidInputError, LimitExceededError: If the event can never be applied. Then
            the tree is as before.
    """
    if isinstance(event, DeleteAttributes):
        edit.delete(event.paths)
        return
    try:
        assignments = [
            (path, _with_text_keys(decode_payload(raw)))
            for path, raw in event.assignments
        ]
    except msgspec.DecodeError as error:
        raise InvalidInputError(field="attributes", reason=str(error)) from error
    edit.assign(assignments)


def _create(
    _tr: Transaction, _store: Store, run: Run, event: CreateRun, moment: Moment
) -> Run:
    opened_us = moment.server_us(event.client_time_us, offset_us=None)
    if opened_us == run.created_us:
        return run
    # The earliest opening is the creation, in whatever order they are delivered: points
    # of another writer may have made the run, or a later one that was not held up.
    return replace(
        run,
        created_us=min(run.created_us, opened_us),
        active=True,
        finished_us=None,
        resumed_count=run.resumed_count + 1,
    )


def _finish(
    _tr: Transaction, _store: Store, run: Run, event: FinishRun, moment: Moment
) -> Run:
    at_us = moment.server_us(event.client_time_us, offset_us=run.clock_offset_us)
    return replace(run, active=False, finished_us=max(at_us, run.created_us))


def _with_text_keys(value: Any) -> Any:
    """Return `value` with every dict key a text: attribute paths are texts."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(item) for item in value]
    return value


def _set_properties(
    tr: Transaction, store: Store, run: Run, event: SetProperties, moment: Moment
) -> Run:
    changes: dict[str, Any] = {}
    if event.name is not None:
        changes["name"] = check_text(
            event.name, field="name", max_bytes=MAX_ENTITY_NAME_BYTES
        )
    if event.description is not None:
        changes["description"] = check_text(
            event.description, field="description", max_bytes=MAX_DESCRIPTION_BYTES
        )
    if event.archived is not None:
        changes["archived"] = event.archived
    if event.experiment is not None and event.experiment.strip():
        experiment = ensure_experiment(
            tr, store, name=event.experiment, now_us=moment.received_us
        )
        changes["experiment_id"] = experiment.experiment_id
    return replace(run, **changes)


def _add_tag(
    tr: Transaction, store: Store, run: Run, event: AddTag, moment: Moment
) -> Run:
    if not event.name.strip():
        return run
    if len(run.tag_ids) >= MAX_TAGS:
        # Before a tag is made that nothing would have.
        known = store.tags.find_by_name(tr, checked_tag_name(event.name))
        if known is None or known.tag_id not in run.tag_ids:
            raise LimitExceededError(
                what="tags of a run", size=len(run.tag_ids) + 1, limit=MAX_TAGS
            )
    tag = ensure_tag(tr, store, name=event.name, now_us=moment.received_us)
    return with_tag(run, tag.tag_id)


def _remove_tag(
    tr: Transaction, store: Store, run: Run, event: RemoveTag, _moment: Moment
) -> Run:
    tag = store.tags.find_by_name(tr, event.name.strip())
    return run if tag is None else without_tag(run, tag.tag_id)


def _refer_blob(
    tr: Transaction, store: Store, run: Run, event: BlobRef, moment: Moment
) -> Run:
    return refer_blob(tr, store, run, event, moment.received_us)


_CHANGE: Final[Mapping[type, Callable[[Transaction, Store, Run, Any, Moment], Run]]] = {
    CreateRun: _create,
    FinishRun: _finish,
    SetProperties: _set_properties,
    AddTag: _add_tag,
    RemoveTag: _remove_tag,
    BlobRef: _refer_blob,
}
