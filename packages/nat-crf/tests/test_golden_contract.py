"""The golden contract can fail: each array of each golden file, spoilt in several ways, is reported."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from nat_crf_testing.golden_checks import check_file, family, golden_files

FOLDER = Path(os.environ.get("SEXTET_GOLDEN_DIR") or Path(__file__).parent / "golden")
FILES = sorted(path.name for path in FOLDER.glob("*.npz")) if FOLDER.is_dir() else []


def spoilt_values(value: np.ndarray, indices: list[int]) -> list[np.ndarray]:
    """Copies with one entry changed, for each of the flat indices."""
    copies = []
    for index in indices:
        copy = value.copy()
        if value.dtype.kind == "U":
            copy.flat[index] = copy.flat[index][:-1] + "?"
        elif value.dtype.kind == "b":
            copy.flat[index] = not copy.flat[index]
        elif value.dtype.kind == "i":
            copy.flat[index] += 1 if copy.flat[index] == 0 or copy.ndim == 0 else -1
        else:
            copy.flat[index] += 0.01 * max(1.0, float(np.abs(value).max()))
        copies.append(copy)
    return copies


def spoilt_forms(value: np.ndarray) -> list[np.ndarray]:
    """Copies with another dtype or shape, or a NaN."""
    forms = [value[None]]
    if value.dtype.kind == "f":
        nan = value.copy()
        nan.flat[-1] = np.nan
        forms += [value.astype(np.float16), nan]
    elif value.dtype.kind in "ib":
        forms += [value.astype(np.int32), value.astype(np.float64)]
    return forms


def is_reported(path: Path, arrays: dict[str, np.ndarray]) -> bool:
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    try:
        check_file(path)
    # What the check raises does not matter here, only that the file does not pass
    except Exception:
        return True
    return False


@pytest.mark.parametrize("name", FILES)
def test_every_array_is_checked(name: str, tmp_path: Path) -> None:
    with np.load(FOLDER / name, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    path = tmp_path / name
    assert not is_reported(path, arrays)
    visible = family(path).visible
    unreported = []
    for key, value in arrays.items():
        spoilt = spoilt_forms(value) + spoilt_values(value, list(visible(key, arrays)))
        unreported += [key for copy in spoilt if not is_reported(path, arrays | {key: copy})]
        missing = {other: array for other, array in arrays.items() if other != key}
        unreported += [f"{key} missing"] * (not is_reported(path, missing))
    assert not unreported
    assert is_reported(path, arrays | {"surprise": np.zeros(3)})


@pytest.mark.parametrize("name", ["crf.npz", "lcrf_mid.npz", "models.npz", "crf_mid.csv", "notes.md"])
def test_unknown_file_is_reported(name: str, tmp_path: Path) -> None:
    shutil.copy(next(FOLDER.glob("*.npz")), tmp_path / name)
    (path,) = golden_files(tmp_path)
    with pytest.raises(AssertionError, match="not a golden file"):
        check_file(path)


def test_damaged_file_is_reported(tmp_path: Path) -> None:
    source = FOLDER / FILES[0]
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(Exception, match=r".+"):
        check_file(path)


@pytest.mark.parametrize("readme", [False, True])
def test_empty_folder_is_reported(readme: bool, tmp_path: Path) -> None:
    if readme:
        (tmp_path / "README.md").write_text("nothing here")
    with pytest.raises(AssertionError, match="no golden files"):
        golden_files(tmp_path)
    with pytest.raises(AssertionError, match="not a folder"):
        golden_files(tmp_path / "absent")
