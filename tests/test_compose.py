"""compose.yaml names only what exists: commands, variables, services, volumes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class

from matyan_project import env

COMPOSE: dict[str, Any] = yaml.safe_load((env.BASE_DIR / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "matyan"]
MADE_ELSEWHERE = ("DJANGO_SETTINGS_MODULE",)


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Yield each service's `manage.py` command lines, health checks included."""
    for name in OURS:
        service = SERVICES[name]
        words = service.get("command", ["up"])
        if service.get("entrypoint") == ["sh", "-c"]:
            for line in words[0].split("&&"):
                yield name, shlex.split(line)[2:]
        else:
            yield name, words
        test = service.get("healthcheck", {}).get("test", [])
        if "manage.py" in test:
            yield name, test[test.index("manage.py") + 1 :]
    dockerfile = (env.BASE_DIR / "Dockerfile").read_text()
    for words in re.findall(r'"manage\.py", ("[^\]]+")', dockerfile):
        yield "Dockerfile", [word.strip(' "') for word in words.split(",")]


@pytest.mark.parametrize(
    ("service", "words"),
    [
        pytest.param(service, words, id=f"{service}: {' '.join(words)}")
        for service, words in command_lines()
    ],
)
def test_every_command_line_exists_and_parses(service: str, words: list[str]):
    name, *arguments = words
    command = load_command_class(get_commands()[name], name)
    command.create_parser("manage.py", name).parse_args(arguments)


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_one_we_read(service: str):
    known = {var.name for var in env.VARS} | {*MADE_ELSEWHERE}
    given: dict[str, str] = SERVICES[service]["environment"]
    assert set(given) <= known
    # Those with a fixed value have one that can be read.
    env.read({k: v for k, v in given.items() if "$" not in str(v)})


def test_every_secret_is_asked_for():
    text = (env.BASE_DIR / "compose.yaml").read_text()
    secrets = {
        "MATYAN_SECRET_KEY",
        "POSTGRES_PASSWORD",
        "S3_ACCESS_KEY",
        "S3_SECRET_KEY",
    }
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked == secrets
    assert not {name for name in secrets if re.search(rf"\$\{{{name}:-", text)}


def test_services_wait_for_services_that_can_tell():
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in SERVICES, name
            if how["condition"] == "service_healthy":
                assert "test" in SERVICES[other]["healthcheck"]


def test_images_are_pinned_and_data_is_in_declared_volumes():
    for name, service in SERVICES.items():
        if name not in OURS:
            assert re.search(r":\d[\w.]*$", service["image"]), name
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in COMPOSE["volumes"]


def pinned(page: str, pattern: str) -> str:
    found = re.search(pattern, (env.BASE_DIR / page).read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_client_library_is_that_of_the_python_package_and_the_server():
    served = SERVICES["foundationdb"]["image"].partition(":")[2]
    assert pinned("requirements.txt", r"^foundationdb==(\S+)") == served
    assert pinned("Dockerfile", r"^ARG FDB_VERSION=(\S+)") == served
