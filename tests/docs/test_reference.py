"""The manual keeps up with the code: reference pages, commands, links."""

from __future__ import annotations

import re

import pytest
from django.core.management import call_command, get_commands
from django.core.management.base import CommandError

from matyan_project import env
from matyan_project.management.commands import reference

PAGES = sorted([*env.BASE_DIR.glob("*.md"), *env.BASE_DIR.glob("docs/**/*.md")])
OUR_COMMANDS = sorted(
    name for name, app in get_commands().items() if app.split(".")[0] in reference.OURS
)


def test_reference_pages_are_up_to_date():
    call_command("reference", "--check")


def test_a_stale_page_is_refused_and_named(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "DIRECTORY", tmp_path)
    call_command("reference")
    (tmp_path / "errors.md").write_text("old")
    with pytest.raises(CommandError, match=r"errors\.md is stale. Run `make docs`"):
        call_command("reference", "--check")


@pytest.mark.parametrize("name", OUR_COMMANDS)
def test_every_command_is_tested(name):
    # Run by its name, or started as a process with its name among the words.
    pattern = re.compile(rf"""["' ]{name}["' ]""")
    tests = env.BASE_DIR.glob("tests/**/*.py")
    assert any(pattern.search(path.read_text()) for path in tests)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(env.BASE_DIR)))
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    "folder", ["backend", "frontier", "workers", "client/src", "matyan_project"]
)
def test_design_notes_named_by_modules_exist(folder):
    notes = {
        note
        for path in (env.BASE_DIR / folder).glob("**/*.py")
        for note in re.findall(r"Design note: (\S+?)(?:#\S+)?\n", path.read_text())
    }
    assert [note for note in notes if not (env.BASE_DIR / note).exists()] == []
