"""The golden contract can fail: each array of each golden file, spoilt in several ways, is reported."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from fslstm_testing.golden_checks import check_file, golden_files

FOLDER = Path(os.environ.get("SEXTET_GOLDEN_DIR") or Path(__file__).parent / "golden")
FILES = sorted(path.name for path in FOLDER.glob("*.npz")) if FOLDER.is_dir() else []

# Arrays of which no check can see every value, and why. Dtype, shape, finiteness and range are checked all the same.
# - param.K.2.bias: adds the same score to all queries of a support row, which the softmax over queries ignores.
# - param.fc.2.*: the LayerNorm behind it ignores one number added to all entries of a vector.
# - cotangent: where logits sum to zero over classes, gradients ignore one number added to all classes.
# - shot in the case `unbalanced`: documented as meaningless where classes have different numbers of rows.
# Partly seen: the entries spoilt below are ones that matter.
# - param.*: an entry that feeds a hidden unit off for all inputs has no effect (its gradient is zero).
# - x: a dropped unit's input is multiplied by zero.
# - seed_mask: one more seed may drop nothing that is not dropped already.
# - query_labels: outside episode files only their range and balance are known; two of them swapped go unseen.
# - dropblock: the number of rows is not documented, and the ramp's end hides larger counts.


def spoilt_values(arrays: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """Copies with one entry changed: the first, the middle and the last, or those that matter."""
    value = arrays[name]
    indices = {0, value.size // 2, value.size - 1}
    if name == "x":
        indices = {int(np.argmax(arrays["block_mask"]))}
    elif name == "seed_mask":
        indices = {int(np.argmax(value))}
    elif f"grad{name.removeprefix('param')}" in arrays:
        indices = {int(np.argmax(np.abs(arrays[f"grad{name.removeprefix('param')}"])))}
    copies = []
    for index in sorted(indices):
        copy = value.copy()
        if value.dtype.kind == "U":
            copy.flat[index] = copy.flat[index][:-1] + "?"
        elif value.dtype.kind == "i":
            copy.flat[index] += 1 if copy.flat[index] == 0 or copy.ndim == 0 else -1
        else:
            copy.flat[index] += 0.01 * max(1.0, float(np.abs(value).max()))
        copies.append(copy)
    return copies


def spoilt_forms(name: str, value: np.ndarray) -> list[np.ndarray]:
    """Copies with another dtype or shape, or a NaN."""
    forms = [value[None]]
    if value.dtype.kind == "f":
        nan = value.copy()
        nan.flat[-1] = np.nan
        forms += [value.astype(np.float32), nan]
    elif value.dtype.kind == "i":
        forms += [value.astype(np.int32), value.astype(np.float64)]
    if value.ndim and len(value) > 1 and name != "dropblock":
        forms.append(value[:-1])
    return forms


def is_reported(path: Path, arrays: dict[str, np.ndarray]) -> bool:
    np.savez(path, **arrays)
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
    unreported = []
    for key, value in arrays.items():
        spoilt = spoilt_forms(key, value)
        if key != "param.K.2.bias" and not (key == "shot" and "unbalanced" in name):
            spoilt += spoilt_values(arrays, key)
        unreported += [key for copy in spoilt if not is_reported(path, arrays | {key: copy})]
        missing = {other: array for other, array in arrays.items() if other != key}
        unreported += [f"{key} missing"] * (not is_reported(path, missing))
    assert not unreported
    assert is_reported(path, arrays | {"surprise": np.zeros(3)})


@pytest.mark.parametrize(
    "name", ["head_lda_5w1s.npz", "heads_lssvm_5w1s.npz", "other.npz", "head_nn_5w3s.csv", "notes.md"]
)
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
