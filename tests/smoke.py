"""Where the tests keep executed notebooks, so that each one runs once a session."""

from pathlib import Path

import pytest


def smoke_work(factory: pytest.TempPathFactory) -> Path:
    """The same folder for every test of a session; `tools.book` finds there what another test has executed."""
    return factory.getbasetemp() / "executed-book"
