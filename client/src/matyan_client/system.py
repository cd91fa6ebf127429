"""What is known of the machine: metrics over time, and parameters once."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import psutil

from matyan_client import _env

MIN_INTERVAL_S: Final = 0.1
MAX_INTERVAL_S: Final = 86_400.0

_SECRET: Final = re.compile(
    r"secret|key|token|passw|passphrase|pwd|credential|auth|cookie|dsn|private"
    r"|conn(?:ection)?_?str"
    # Too short to be looked for within words, as in PATH or COMPASS.
    r"|(?:^|[_-])(?:pass|pat|pw|psk|sas|jwt|otp|creds?)(?:$|[_-])",
    re.IGNORECASE,
)
_USERINFO: Final = re.compile(r"://[^/@\s]+@")
_TOKEN: Final = re.compile(r"mty_\w+")
_GIT_TIMEOUT_S: Final = 2.0

Sample = tuple[str, float, dict[str, Any] | None]


def check_interval(interval_s: float | None) -> float | None:
    """Return the interval to sample at, None for off.

    Raises:
        ValueError: If it is out of range.
    """
    if interval_s is None:
        return None
    if not MIN_INTERVAL_S <= interval_s <= MAX_INTERVAL_S:
        msg = (
            f"system_tracking_interval is {interval_s} s; it must be "
            f"{MIN_INTERVAL_S} to {MAX_INTERVAL_S:.0f}, or None for off"
        )
        raise ValueError(msg)
    return float(interval_s)


class SystemTracker:
    """Samples the machine at the start and at every interval.

    Args:
        interval_s: Seconds between samples.
        store: Called by the tracker's thread with (name, value, context).
    """

    def __init__(
        self,
        interval_s: float,
        store: Callable[[str, float, dict[str, Any] | None], None],
    ) -> None:
        self._interval_s = interval_s
        self._store = store
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="matyan-system", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        gpus = _gpus()
        self._process.cpu_percent()  # the first call has nothing to compare with
        while True:
            with contextlib.suppress(psutil.Error, OSError, RuntimeError):
                for name, value, context in [*self._host(), *_gpu_samples(gpus)]:
                    self._store(name, value, context)
            if self._stop.wait(self._interval_s):
                return

    def _host(self) -> Iterator[Sample]:
        yield "__system__cpu", self._process.cpu_percent(), None
        yield "__system__p_memory_percent", self._process.memory_percent(), None
        yield "__system__memory_percent", psutil.virtual_memory().percent, None
        yield "__system__disk_percent", psutil.disk_usage("/").percent, None

    def close(self) -> None:
        """Stop sampling. Idempotent."""
        self._stop.set()
        self._thread.join(timeout=2)


def _gpus() -> Any:
    """Return NVML, ready for use, or None."""
    try:
        nvml: Any = importlib.import_module("pynvml")  # an extra
        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no driver, no library: no GPU metrics
        return None
    return nvml


def _gpu_samples(nvml: Any) -> Iterator[Sample]:
    if nvml is None:
        return
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        context = {"gpu": index}
        with contextlib.suppress(nvml.NVMLError):
            use = nvml.nvmlDeviceGetUtilizationRates(handle)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            yield "__system__gpu", float(use.gpu), context
            share = 100 * memory.used / memory.total
            yield "__system__gpu_memory_percent", share, context
            celsius = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            yield "__system__gpu_temp", float(celsius), context
            watts = nvml.nvmlDeviceGetPowerUsage(handle) / 1000
            yield "__system__gpu_power_watts", watts, context


def system_params() -> dict[str, Any]:
    """Return executable, arguments, packages, environment and git state.

    Variables whose names sound secret are left out, and credentials inside addresses.
    Takes up to a few seconds.
    """
    return {
        "executable": sys.executable,
        "arguments": safe_arguments(sys.argv),
        "packages": _packages(),
        "env_variables": safe_variables(_env.variables()),
        "git_info": _git_info(),
    }


def safe_variables(variables: dict[str, str]) -> dict[str, str]:
    """Return the variables that may be stored."""
    return {
        name: _without_secrets(value)
        for name, value in variables.items()
        if not _SECRET.search(name)
    }


def _without_secrets(text: str) -> str:
    return _TOKEN.sub("…", _USERINFO.sub("://", text))


def safe_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments with the values of secret-sounding options hidden."""
    safe: list[str] = []
    hide = False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        secret = argument.startswith("-") and bool(_SECRET.search(option))
        if hide and not argument.startswith("-"):
            safe.append("***")
        elif secret and equals:
            safe.append(f"{option}=***")
        else:
            safe.append(_without_secrets(argument))
        hide = secret and not equals
    return safe


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        with contextlib.suppress(Exception):  # broken metadata is not our business
            found[distribution.metadata["Name"]] = distribution.version
    return found


def _git_info() -> dict[str, Any]:
    commit = _git("log", "-1", "--format=%H%n%cI%n%an")
    if commit is None or commit.count("\n") < 2:
        return {}
    commit_hash, timestamp, author = commit.split("\n")[:3]
    remote = _git("config", "--get", "remote.origin.url") or ""
    return {
        "branch": _git("rev-parse", "--abbrev-ref", "HEAD") or "",
        "remote_origin_url": _USERINFO.sub("://", remote),
        "commit": {"hash": commit_hash, "timestamp": timestamp, "author": author},
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            ["git", *arguments],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.strip()
