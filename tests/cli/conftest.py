"""What a fresh process gets from `_quiet_libraries`, for a process in which the libraries are long loaded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transformers.utils import logging


@pytest.fixture(autouse=True)
def quiet_libraries() -> Iterator[None]:
    """No progress bars and no advice on stderr."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
    logging.set_verbosity(level)
