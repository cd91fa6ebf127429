"""A throw-away Redis: Celery's broker where there are several machines.

Needs `redis-server` (Debian: redis-server).
"""

from __future__ import annotations

from typing_extensions import override

from tests.services.server_process import ServerProcess, not_found


def missing() -> str:
    """Return why no server can be had here, "" if one can."""
    return not_found("redis-server")


class RedisServer(ServerProcess):
    """One server on 127.0.0.1, its data in an append-only file."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @override
    def command(self) -> list[str]:
        return [
            "redis-server",
            *("--port", str(self.port)),
            *("--bind", "127.0.0.1"),
            *("--dir", str(self.directory)),
            *("--appendonly", "yes"),
        ]
