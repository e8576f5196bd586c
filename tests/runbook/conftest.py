"""What a module remembers of nvidia-smi is forgotten before each test: every test has its own stand-in."""

import pytest

from runbook.machine import gpus


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    for remembered in (gpus.ask, gpus.look, gpus.holders):
        remembered.cache_clear()
