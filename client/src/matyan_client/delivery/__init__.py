"""Delivery: from the journal to the server, by whoever holds the journal's lock.

`frames` cuts the journal into frames, `gateway` finds and opens a connection,
`channels` speaks the protocol over it, `sender` keeps the window full until everything
is acknowledged, `orphans` delivers what dead processes left.

Design note: docs/subsystems/sdk.md#delivery
"""
