"""Everything this product raises on purpose.

    MatyanError
    ├── InvalidInputError            400/422  the caller must change the request
    │   ├── QuerySyntaxError         400
    │   ├── BlobKeyError             422
    │   ├── TokenError               403
    │   └── LimitExceededError       422
    ├── NotFoundError                404
    │   ├── RunNotFoundError, ExperimentNotFoundError, TagNotFoundError,
    │   └── NoteNotFoundError, EntityNotFoundError, …
    ├── ConflictError                409
    │   ├── NameTakenError
    │   ├── TargetNotEmptyError, SourceChangingError
    │   └── RestoreTargetNotEmptyError
    ├── AccessError                  401  who asks, and what they may do
    │   ├── ForbiddenError           403
    │   ├── TooManyAttemptsError     429
    │   └── AccessUnavailableError   503
    ├── StoreError                   503  the key-value store
    │   ├── TransactionConflictError      retried by Engine.transact
    │   ├── CommitUnknownResultError      retried by Engine.transact
    │   ├── TransactionTooOldError        retried by Engine.transact
    │   ├── TransactionTooLargeError, KeyTooLargeError, ValueTooLargeError
    │   ├── KeyOutsideRangeError
    │   ├── StoreFullError, StoreUnavailableError, StoreClosedError
    │   ├── NetworkFilesystemError
    │   └── FormatError                   data this version cannot read
    │       └── BackupDamagedError        a backup that is not whole
    ├── EventLogError                503  the event log
    │   ├── EventLogFullError, EventLogUnavailableError, EventLogClosedError
    │   └── RecordTooLargeError      422
    ├── TaskQueueUnavailableError    503  the task queue
    └── BlobStoreError               503  the blob store
        ├── BlobStoreFullError, BlobStoreUnavailableError
        ├── BlobNotFoundError        404
        ├── BlobTooLargeError        413
        ├── BlobLengthError          400
        └── MultipartNotFoundError   404

Messages are fixed strings; what varies is in `fields`, so that logs can be searched and
grouped. `hint` tells the person what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar

from typing_extensions import override


class MatyanError(Exception):
    """Root of the tree.

    Attributes:
        code: Stable, documented machine name.
        http_status: What the REST API answers.
        message: Fixed text: what happened.
        hint: Fixed text: what to do about it, may be empty.
        fields: What varies: ids, paths, sizes. Never secrets.
    """

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    message: ClassVar[str] = "Internal error"
    hint: ClassVar[str] = ""

    def __init__(self, **fields: Any) -> None:
        super().__init__(self.message)
        self.fields = fields

    @override
    def __str__(self) -> str:
        details = ", ".join(f"{name}={value!r}" for name, value in self.fields.items())
        text = f"{self.message} ({details})" if details else self.message
        return f"{text}. {self.hint}" if self.hint else text


class InvalidInputError(MatyanError):
    """The request or record says something that cannot be meant."""

    code = "validation_error"
    http_status = 422
    message = "Invalid input"


class QuerySyntaxError(InvalidInputError):
    """The query is not an expression of the query language.

    Fields: statement, line, offset (1-based, in the parenthesised text), reason.
    """

    code = "bad_request"
    http_status = 400
    message = "SyntaxError"


class BadRequestError(InvalidInputError):
    """A request parameter cannot be used. Fields: parameter, value, reason."""

    code = "bad_request"
    http_status = 400
    message = "Bad request"


class LimitExceededError(InvalidInputError):
    """Something is larger than allowed. Fields: what, size, limit."""

    code = "limit_exceeded"
    message = "Over the limit"


class BlobKeyError(InvalidInputError):
    """A path or key cannot name a blob. Fields: key, reason."""

    code = "bad_blob_key"
    message = "Not a usable blob path"


class TokenError(InvalidInputError):
    """A signed address is altered, expired or for something else. Fields: reason."""

    code = "bad_token"
    http_status = 403
    message = "The address is not valid"
    hint = "Ask for a new one"


class NotFoundError(MatyanError):
    """What was asked for does not exist."""

    code = "not_found"
    http_status = 404
    message = "Not Found"


class RunNotFoundError(NotFoundError):
    """No such run, or it has been deleted. Fields: run_id."""

    message = "Run not found"


class ExperimentNotFoundError(NotFoundError):
    """No such experiment. Fields: experiment_id."""

    message = "Experiment not found"


class TagNotFoundError(NotFoundError):
    """No such tag. Fields: tag_id."""

    message = "Tag not found"


class NoteNotFoundError(NotFoundError):
    """No such note on this run or experiment. Fields: note_id."""

    message = "Note not found"


class ArtifactNotFoundError(NotFoundError):
    """The run has no artifact of this path. Fields: run_id, path."""

    message = "Artifact not found"


class EntityNotFoundError(NotFoundError):
    """No such document: dashboard, app, report. Fields: kind, id."""

    message = "Not Found"


class ConflictError(MatyanError):
    """The request contradicts what is stored."""

    code = "conflict"
    http_status = 409
    message = "Conflict"


class NameTakenError(ConflictError):
    """Another experiment or tag has this name. Fields: kind, name."""

    message = "Name already taken"


class AccessError(MatyanError):
    """Nobody, or nobody known, asks for what needs credentials."""

    code = "unauthorized"
    http_status = 401
    message = "Credentials are missing or wrong"
    hint = "Send a token that has not expired, or sign in"


class ForbiddenError(AccessError):
    """Whoever asks is known, and may not. Fields: needed (a scope) or reason."""

    code = "forbidden"
    http_status = 403
    message = "Not allowed"
    hint = "Ask an administrator for a token with the needed scope"


class TooManyAttemptsError(AccessError):
    """Too many wrong credentials came from this address lately. Fields: address."""

    code = "too_many_attempts"
    http_status = 429
    message = "Too many wrong credentials"
    hint = "Wait a minute"


class AccessUnavailableError(AccessError):
    """The table of tokens and people cannot be read."""

    code = "access_unavailable"
    http_status = 503
    message = "Credentials cannot be checked now"
    hint = "Try again; the server's log tells what is wrong with its database"


class TargetNotEmptyError(ConflictError):
    """The target of a copy holds data. Fields: reason."""

    code = "target_not_empty"
    message = "The target of the copy is not empty"
    hint = "Copy into an empty store, or pass --resume to go on with a copy"


class RestoreTargetNotEmptyError(TargetNotEmptyError):
    """The store to restore into holds data. Fields: reason."""

    message = "The store to restore into is not empty"
    hint = (
        "Restore into an empty one: set another MATYAN_DATA_DIR or cluster, or move "
        "this store away"
    )


class SourceChangingError(ConflictError):
    """The source was written to during the copy. Fields: differences."""

    code = "source_changing"
    message = "The source changes faster than it can be copied"
    hint = "Stop the servers and workers that use it, then go on with --resume"


class StoreError(MatyanError):
    """The key-value store could not do what was asked."""

    code = "store_error"
    http_status = 503
    message = "The store failed"


class TransactionConflictError(StoreError):
    """Another transaction wrote what this one read; `Engine.transact` retries."""

    code = "transaction_conflict"
    message = "Transaction conflict"


class CommitUnknownResultError(StoreError):
    """The commit may or may not have happened; `Engine.transact` retries."""

    code = "commit_unknown_result"
    message = "Commit result unknown"


class TransactionTooOldError(StoreError):
    """The transaction outlived `Limits.transaction_seconds`."""

    code = "transaction_too_old"
    message = "Transaction took too long"
    hint = "Read or write less in one transaction"


class TransactionTooLargeError(StoreError):
    """The transaction writes more than `Limits.transaction_bytes`. Not retried."""

    code = "transaction_too_large"
    message = "Transaction too large"
    hint = "Split the write over several transactions"


class KeyTooLargeError(StoreError):
    """A key is over `Limits.key_bytes`. Fields: size, limit."""

    code = "key_too_large"
    message = "Key too large"


class KeyOutsideRangeError(StoreError):
    """A key is empty or starts with 0xFF, which engines keep. Fields: key (hex)."""

    code = "key_outside_range"
    message = "Key outside the key space"


class ValueTooLargeError(StoreError):
    """A value is over `Limits.value_bytes`. Fields: size, limit."""

    code = "value_too_large"
    message = "Value too large"


class StoreFullError(StoreError):
    """The disk (or the store's configured size) is full. Fields: path, reason."""

    code = "store_full"
    http_status = 507
    message = "The store is full"
    hint = "Free disk space or raise the store's size limit; nothing was lost"


class StoreUnavailableError(StoreError):
    """The store does not answer. Fields: reason."""

    code = "store_unavailable"
    message = "The store is unavailable"


class StoreClosedError(StoreError):
    """The engine has been closed, or belongs to the parent of this process."""

    code = "store_closed"
    message = "The store is closed"


class NetworkFilesystemError(StoreError):
    """The data directory is not on a local disk. Fields: path, filesystem."""

    code = "network_filesystem"
    message = "The data directory is on a network file system"
    hint = (
        "Use a directory on a local disk; memory maps and locks shared over a network "
        "lose data"
    )


class FormatError(StoreError):
    """Stored data has a format this version does not read. Fields: found, supported."""

    code = "unsupported_format"
    message = "The data was written by a newer or unknown version"
    hint = "Start the version that wrote it, or point to another data directory"


class BackupDamagedError(FormatError):
    """A file is no backup, damaged, or not whole. Fields: path, reason."""

    code = "damaged_backup"
    message = "The backup cannot be used"
    hint = "Copy the file again, or take another backup"


class EventLogError(MatyanError):
    """The event log could not do what was asked."""

    code = "event_log_error"
    http_status = 503
    message = "The event log failed"


class EventLogFullError(EventLogError):
    """The disk (or the log's configured size) is full. Fields: path, reason."""

    code = "event_log_full"
    http_status = 507
    message = "The event log is full"
    hint = "Free disk space or raise the log's size limit; nothing was lost"


class EventLogUnavailableError(EventLogError):
    """The event log does not answer. Fields: reason."""

    code = "event_log_unavailable"
    message = "The event log is unavailable"


class EventLogClosedError(EventLogError):
    """The producer or consumer has been closed."""

    code = "event_log_closed"
    message = "The event log is closed"


class RecordTooLargeError(EventLogError):
    """A record is over the topic's limit. Fields: topic, size, limit."""

    code = "record_too_large"
    http_status = 422
    message = "Record too large"


class StaleConsumerError(EventLogError):
    """The consumer has lost the partition it wants to commit; it must poll again.

    Fields: group, topic, partition.
    """

    code = "stale_consumer"
    message = "The consumer no longer owns the partition"


class TaskQueueUnavailableError(MatyanError):
    """The task queue took no task. Fields: reason."""

    code = "task_queue_unavailable"
    http_status = 503
    message = "The task queue is unavailable"
    hint = "Start its broker; what waits is sent then"


class BlobStoreError(MatyanError):
    """The blob store could not do what was asked."""

    code = "blob_store_error"
    http_status = 503
    message = "The blob store failed"


class BlobStoreUnavailableError(BlobStoreError):
    """The blob store does not answer, or refuses this server. Fields: reason."""

    code = "blob_store_unavailable"
    message = "The blob store is unavailable"


class BlobStoreFullError(BlobStoreError):
    """The disk is full. Fields: path, reason."""

    code = "blob_store_full"
    http_status = 507
    message = "The blob store is full"
    hint = "Free disk space; nothing was lost"


class BlobNotFoundError(BlobStoreError):
    """No blob of this key has been uploaded. Fields: key."""

    code = "blob_not_found"
    http_status = 404
    message = "The file has not been uploaded, or is gone"


class BlobTooLargeError(BlobStoreError):
    """More bytes than allowed. Fields: limit."""

    code = "blob_too_large"
    http_status = 413
    message = "The upload is larger than it was signed for"


class BlobLengthError(BlobStoreError):
    """Another number of bytes than announced. Fields: size, expected."""

    code = "blob_length"
    http_status = 400
    message = "The upload has another length than announced"


class MultipartNotFoundError(BlobStoreError):
    """No such upload in parts: completed, aborted or never begun. Fields: upload_id."""

    code = "multipart_not_found"
    http_status = 404
    message = "No such upload in parts"
    hint = "Begin a new one"
