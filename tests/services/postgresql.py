"""A throw-away PostgreSQL: Django's own tables where there are several machines.

Needs the server's programs (Debian: postgresql); they refuse to run as root, and are
then run as the user `postgres` that the package makes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from typing_extensions import override

from tests.services.server_process import ServerProcess

USER = "matyan"
PASSWORD = "matyan-test"  # noqa: S105 - of a server of the test
SYSTEM_USER = "postgres"


def _programs() -> Path | None:
    """Return the directory of the newest server's programs."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(path.parts[-3]),
    )
    return installed[-1].parent if installed else None


def missing() -> str:
    """Return why no server can be had here, "" if one can."""
    return "" if _programs() else "initdb and postgres not found"


def _as_server(*command: str) -> list[str]:
    if os.geteuid() != 0:
        return list(command)
    return ["runuser", "-u", SYSTEM_USER, "--", *command]


class PostgresServer(ServerProcess):
    """One server on 127.0.0.1 with one empty database.

    Its directory is a temporary one of its own, which the system's user can enter: not
    so the tests' directories.
    """

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="postgresql-")
        super().__init__(Path(self._temporary.name))

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @override
    def prepare(self) -> None:
        password = self.directory / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(self.directory, SYSTEM_USER)
            shutil.chown(password, SYSTEM_USER)
        self._run(
            "initdb",
            f"--pgdata={self._data}",
            f"--username={USER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-sync",
        )

    @override
    def command(self) -> list[str]:
        return _as_server(
            self._program("postgres"),
            *("-D", str(self._data)),
            *("-p", str(self.port)),
            *("-h", "127.0.0.1"),
            *("-k", str(self.directory)),
        )

    @override
    def answers(self) -> bool:
        # It listens before it takes statements.
        asked = [self._program("pg_isready"), "-q", "-h", "127.0.0.1"]
        done = subprocess.run([*asked, "-p", str(self.port)], check=False, timeout=20)
        return done.returncode == 0

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._temporary.cleanup()

    def _program(self, name: str) -> str:
        programs = _programs()
        assert programs is not None, missing()
        return str(programs / name)

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            _as_server(self._program(name), *arguments),
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
