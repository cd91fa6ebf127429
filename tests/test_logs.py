"""How log records are written: one line each, whatever is in them."""

from __future__ import annotations

import logging

import pytest

from matyan_project.logs import JsonFormatter, TextFormatter


@pytest.mark.parametrize("sign", ["\n", "\r", "\x1b", "\x00", "\x7f", "\x85", "\u2028"])
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_value_ends_a_line_or_drives_a_terminal(
    formatter: logging.Formatter, sign: str
) -> None:
    record = logging.makeLogRecord(
        {"msg": "said %s", "args": (f"a{sign}b",), "path": f"c{sign}d"}
    )
    line = formatter.format(record)
    assert sign not in line
    assert line.isprintable()


def test_other_text_is_written_as_it_is() -> None:
    record = logging.makeLogRecord({"msg": "api.refused", "path": "/läuft/\\n"})
    assert TextFormatter().format(record).endswith("api.refused path=/läuft/\\n")
