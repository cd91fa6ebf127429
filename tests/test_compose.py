"""compose.yaml names only what exists: commands, variables, services, volumes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from django.core.management import get_commands, load_command_class

from matyan_project import env
from tests.compose import (
    COMPOSE,
    OURS,
    SERVICES,
    TEXT,
    command_lines,
    health_check,
    variables,
)

MADE_ELSEWHERE = ("DJANGO_SETTINGS_MODULE",)
SECRETS = ("MATYAN_SECRET_KEY", "POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")


def all_command_lines() -> Iterator[tuple[str, list[str]]]:
    """Yield each service's `manage.py` command lines, health checks included."""
    for name in OURS:
        for words in command_lines(name):
            yield name, words
        check = health_check(name)
        if check is not None:
            yield name, check


@pytest.mark.parametrize(
    ("service", "words"),
    [
        pytest.param(service, words, id=f"{service}: {' '.join(words)}")
        for service, words in all_command_lines()
    ],
)
def test_every_command_line_exists_and_parses(service: str, words: list[str]):
    name, *arguments = words
    command = load_command_class(get_commands()[name], name)
    command.create_parser("manage.py", name).parse_args(arguments)


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_one_we_read(service: str):
    known = {var.name for var in env.VARS} | {*MADE_ELSEWHERE}
    given = variables(service, dict.fromkeys(SECRETS, "secret"))
    assert set(given) <= known
    env.read(given)


def test_every_secret_is_asked_for():
    asked = set(re.findall(r"\$\{(\w+):\?", TEXT))
    assert asked == set(SECRETS)
    assert not {name for name in SECRETS if re.search(rf"\$\{{{name}:-", TEXT)}


def test_every_part_of_the_system_runs():
    """Nothing of what `manage.py up` starts is forgotten."""
    running = {tuple(words[:2]) for name in OURS for words in command_lines(name)}
    assert {("runworker", "ingestion"), ("runworker", "control")} <= running
    assert ("taskworker", "--beat") in running
    roles = {variables(n, dict.fromkeys(SECRETS, "s")).get("MATYAN_ROLE") for n in OURS}
    assert {"frontier", "all"} <= roles


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
