"""What tests of several rooms share."""

import os
from pathlib import Path

import pytest

from slim import cpu_environment

# Before any test module imports Paddle, which would spoil zlib for the compiled convolutions.
cpu_environment.prepare()


@pytest.fixture(scope="session")
def published() -> Path:
    """Folder of published models and photos; the tests that use it skip where PPOCR_PUBLISHED is unset."""
    folder = os.environ.get("PPOCR_PUBLISHED", "")
    if not folder:
        pytest.skip("PPOCR_PUBLISHED is not set: no published models to compare with")
    if not Path(folder).is_dir():
        pytest.fail(f"PPOCR_PUBLISHED={folder} is no folder")
    return Path(folder)
