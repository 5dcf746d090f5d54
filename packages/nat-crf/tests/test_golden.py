"""Golden vectors of the reference implementation, a contract: every file, every array, nothing unknown.

The folder is tests/golden, or the one named by the environment variable SEXTET_GOLDEN_DIR; see its README.md.
"""

import os
from pathlib import Path

import pytest
from nat_crf_testing.golden_checks import check_file, golden_files

FOLDER = Path(os.environ.get("SEXTET_GOLDEN_DIR") or Path(__file__).parent / "golden")
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.name != "README.md") if FOLDER.is_dir() else []


def test_folder_is_not_empty() -> None:
    assert [path.name for path in golden_files(FOLDER)] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_golden_file(name: str) -> None:
    check_file(FOLDER / name)
