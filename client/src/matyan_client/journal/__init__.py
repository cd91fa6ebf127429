"""The local log: what `track()` writes and the sender reads.

One directory per writer (a process writing to a run):

    <state dir>/journals/<run id>.<writer>/
        lock              held (flock) by the owner, or by whoever delivers it later
        meta.json         format, run id, writer, URLs, boot id
        frames            which points and events each sent frame holds, what is acked
        points-NNNNNNNN   metric points, columns, preallocated and mapped
        series-NNNNNNNN   series definitions, checksummed records
        events-NNNNNNNN   everything else, checksummed records

Layout and promises: docs/subsystems/sdk.md#journal
"""
