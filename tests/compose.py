"""compose.yaml, read: services, their command lines, health checks and variables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from matyan_project import env

TEXT = (env.BASE_DIR / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "matyan"]

_REFERENCE = re.compile(r"\$\{(?P<name>\w+)(?P<how>:[-?])(?P<text>[^}]*)\}")


def command_lines(name: str) -> Iterator[list[str]]:
    """Yield what a service of ours gives to `manage.py`, in the order it runs."""
    service = SERVICES[name]
    words = service.get("command", ["up"])
    if service.get("entrypoint") == ["sh", "-c"]:
        for line in words[0].split("&&"):
            yield shlex.split(line)[2:]
    else:
        yield list(words)


def health_check(name: str) -> list[str] | None:
    """Return what a service's health check gives to `manage.py`, None without one."""
    check = SERVICES[name].get("healthcheck", {})
    if check.get("disable"):
        return None
    words = check.get("test") or image_health_check()
    return list(words[words.index("manage.py") + 1 :])


def image_health_check() -> list[str]:
    """Return the image's own health check, from the Dockerfile."""
    dockerfile = (env.BASE_DIR / "Dockerfile").read_text()
    found = re.search(r"HEALTHCHECK[^[]*CMD \[([^\]]+)\]", dockerfile)
    assert found is not None
    return [word.strip(' "') for word in found[1].split(",")]


def variables(name: str, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return a service's environment, `${…}` replaced as Compose does.

    Raises:
        KeyError: If it asks for a variable that `secrets` does not have.
    """

    def replace(reference: re.Match[str]) -> str:
        if reference["how"] == ":?":
            return secrets[reference["name"]]
        return secrets.get(reference["name"], reference["text"])

    given: dict[str, str] = SERVICES[name]["environment"]
    return {key: _REFERENCE.sub(replace, str(text)) for key, text in given.items()}
