"""Golden vectors of the published implementation, a contract: every file, every array, nothing unknown.

The folder is tests/golden, or the one named by the environment variable SEXTET_GOLDEN_DIR; see its README.md.
"""

import os
from pathlib import Path

import pytest
from infocl_testing.golden_checks import check_file, golden_files

FOLDER = Path(os.environ.get("SEXTET_GOLDEN_DIR") or Path(__file__).parent / "golden")
FILES = golden_files(FOLDER)


def test_the_folder_is_not_empty() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_golden_file(path: Path) -> None:
    check_file(path)
