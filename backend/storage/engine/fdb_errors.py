"""FoundationDB's error codes in our words.

The codes are FoundationDB's own (its documentation lists them) and never change their
meaning. A code that is in none of the tables becomes a plain `StoreError` with the code
in its fields.

Design note: docs/subsystems/engines.md#foundationdb
"""

from __future__ import annotations

from typing import Final

from backend.errors import (
    CommitUnknownResultError,
    KeyOutsideRangeError,
    KeyTooLargeError,
    StoreError,
    StoreUnavailableError,
    TransactionConflictError,
    TransactionTooLargeError,
    TransactionTooOldError,
    ValueTooLargeError,
)


class PassingTroubleError(StoreUnavailableError):
    """What FoundationDB says will be over soon: a recovery, a throttle, a lagging node.

    Retried like a conflict; raised, as `StoreUnavailableError`, when time is over.
    """


class ClusterTooOldError(TransactionTooOldError):
    """The cluster has forgotten the version read, as after a recovery.

    Unlike a transaction that is itself too slow, a read may simply be tried again.
    """


TIMED_OUT: Final = 1031
"""`transaction_timed_out`: the time-out we set has passed without an answer."""

_OF_CODE: Final[dict[int, type[StoreError]]] = {
    1007: ClusterTooOldError,
    1020: TransactionConflictError,
    1021: CommitUnknownResultError,
    2004: KeyOutsideRangeError,
    2101: TransactionTooLargeError,
    2102: KeyTooLargeError,
    2103: ValueTooLargeError,
}

_UNAVAILABLE: Final = {
    TIMED_OUT: "no answer in time: the cluster is unreachable, or has no capacity",
    1501: "the disk of a node is full",
    1510: "a file of the client could not be read or written",
    1511: "the cluster file was not found",
    1513: "the cluster file cannot be read",
    1515: "no cluster file was found",
    1516: "the cluster file changed while it was read",
    2104: "the cluster file holds no connection string",
}
"""Codes that another attempt of the same transaction would not get past, and why."""


def translate(
    code: int, text: str, *, retryable: bool, maybe_committed: bool
) -> StoreError:
    """Return the error for FoundationDB's `code`.

    Args:
        code: The code.
        text: FoundationDB's description.
        retryable: Whether its client says that the transaction may be tried again.
        maybe_committed: Whether its client says that the commit may have happened.
    """
    found = _OF_CODE.get(code)
    if found is not None:
        return found(fdb_code=code)
    if code in _UNAVAILABLE:
        return StoreUnavailableError(reason=_UNAVAILABLE[code], fdb_code=code)
    if maybe_committed:
        return CommitUnknownResultError(reason=text, fdb_code=code)
    if retryable:
        return PassingTroubleError(reason=text, fdb_code=code)
    return StoreError(reason=text, fdb_code=code)


RETRIED: Final = (
    TransactionConflictError,
    CommitUnknownResultError,
    TransactionTooOldError,
    PassingTroubleError,
)
"""Errors of `transact` after which the transaction runs again."""

READ_RETRIED: Final = (ClusterTooOldError, PassingTroubleError)
"""The same for `read`."""
