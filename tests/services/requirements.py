"""What a test does where a service that it needs is not to be had."""

from __future__ import annotations

from collections.abc import Set

import pytest


def require(name: str, missing: str, required: Set[str]) -> None:
    """Skip the test where a service is missing; fail if it is one of the required.

    Args:
        name: As `--require` knows it.
        missing: Why it cannot be had, "" if it can.
        required: What `--require` named.
    """
    if not missing:
        return
    reason = f"{name} is missing: {missing}"
    if name in required:
        pytest.fail(reason)
    pytest.skip(reason)
