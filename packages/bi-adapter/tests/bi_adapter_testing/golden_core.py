"""Golden vectors of the quantiser: codebooks, a quantised linear layer forward and backward, stored records."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from bi_adapter.codebooks import published_codebook
from bi_adapter.packing import decode
from bi_adapter.published import read_records, write_records
from bi_adapter.quantise import encode, fake_quantize, level_index, nearest_index
from bi_adapter.serialise import Shape

Arrays = dict[str, np.ndarray]
LAYER = {"bits", "weight", "x", "grad_y", "mean", "std", "index", "w_eff", "y", "grad_x", "grad_weight"}
RECORD = {"bits", "weight", "record", "mean", "std", "decoded"}


def knows(path: Path) -> bool:
    """Whether `check` is the one for this file."""
    return re.fullmatch(r"(codebooks|fakequant|pack)[^/]*\.npz", path.name) is not None


def check(path: Path) -> None:
    """Fail unless everything in the file is what this package computes."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    assert arrays, f"{path.name} is empty"
    if path.name.startswith("codebooks"):
        check_codebooks(arrays)
        return
    for name, case in cases(arrays).items():
        (check_layer if path.name.startswith("fakequant") else check_record)(name, case)


def cases(arrays: Arrays) -> dict[str, Arrays]:
    """Arrays `<case>/<name>` by case."""
    found: dict[str, Arrays] = defaultdict(dict)
    for name, value in arrays.items():
        case, separator, rest = name.partition("/")
        assert separator, f"undocumented: {name}"
        found[case][rest] = value
    return found


def close(found: torch.Tensor, wanted: np.ndarray, relative: float, what: str) -> None:
    """max|a - b| <= relative max|b|, in shape and dtype alike."""
    assert list(found.shape) == list(wanted.shape), f"{what}: {list(found.shape)}, expected {list(wanted.shape)}"
    assert str(found.dtype) == f"torch.{wanted.dtype}", f"{what}: {found.dtype}, expected {wanted.dtype}"
    assert np.isfinite(wanted).all(), what
    if wanted.size:
        error = float(np.abs(found.detach().numpy() - wanted).max())
        assert error <= relative * float(np.abs(wanted).max()), f"{what}: off by {error}"


def check_codebooks(arrays: Arrays) -> None:
    """Levels and thresholds, and numbers quantised by them."""
    bits = sorted({int(name.rpartition("_b")[2]) for name in arrays})
    assert set(arrays) == {f"{part}_b{b}" for b in bits for part in ("code", "thr", "halfstep", "x", "q")}
    for b in bits:
        levels, thresholds = published_codebook(b)
        np.testing.assert_allclose(levels.numpy(), arrays[f"code_b{b}"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(thresholds.numpy(), arrays[f"thr_b{b}"], rtol=0, atol=1e-6)
        np.testing.assert_allclose((levels.diff() / 2).numpy(), arrays[f"halfstep_b{b}"], rtol=0, atol=1e-6)
        index = level_index(torch.from_numpy(arrays[f"x_b{b}"]), thresholds)
        np.testing.assert_allclose(levels[index.int()].numpy(), arrays[f"q_b{b}"], rtol=0, atol=5e-7)


def check_layer(name: str, case: Arrays) -> None:
    """A quantised linear layer with the published gradient."""
    assert set(case) == LAYER, f"{name}: {sorted(set(case) ^ LAYER)}"
    bits, single = int(case["bits"]), case["weight"].dtype == np.float32
    tolerance = 2e-6 if single else 1e-13 if bits <= 2 else 2e-8
    weight, x = (torch.from_numpy(case[key]).requires_grad_() for key in ("weight", "x"))
    effective = fake_quantize(weight, bits, codebook_kind="as-published")
    y = F.linear(x, effective)
    y.backward(torch.from_numpy(case["grad_y"]))
    index, (offset, scale) = nearest_index(weight, bits, codebook_kind="as-published")
    assert case["index"].dtype == np.uint8
    assert np.array_equal(index.numpy(), case["index"]), name
    assert x.grad is not None
    assert weight.grad is not None
    found = {
        "mean": offset.reshape(()), "std": scale.reshape(()), "w_eff": effective, "y": y, "grad_x": x.grad,
        "grad_weight": weight.grad,
    }  # fmt: skip
    for key, value in found.items():
        close(value, case[key], tolerance, f"{name}/{key}")


def check_record(name: str, case: Arrays) -> None:
    """One stored matrix: bytes, and what they decode to."""
    assert set(case) == RECORD, f"{name}: {sorted(set(case) ^ RECORD)}"
    bits, record = int(case["bits"]), case["record"].tobytes()
    rows, columns = case["weight"].shape
    stored = encode(torch.from_numpy(case["weight"]), bits, codebook_kind="as-published")
    content = write_records([stored])
    assert len(content) == len(record)
    assert content[:-8] == record[:-8], f"{name}: packed indices"
    same_floats(np.frombuffer(content[-8:], "<f4"), np.frombuffer(record[-8:], "<f4"), name)
    assert np.array_equal(np.frombuffer(record[-8:], "<f4"), [case["mean"], case["std"]])
    (read,), rest = read_records(record, [Shape(rows, columns, bits, "as-published")])
    assert rest.numel() == 0
    close(decode(read), case["decoded"], 1e-6, f"{name}/decoded")
    assert write_records([read]) == record


def same_floats(found: np.ndarray, wanted: np.ndarray, what: str) -> None:
    """Within one unit in the last place (of the order of summation)."""
    assert found.shape == wanted.shape
    assert np.isfinite(wanted).all()
    # A mean near zero carries the rounding of its summands
    allowed = np.spacing(np.maximum(np.abs(wanted), 1e-3).astype(np.float32)) * 1.01
    assert (np.abs(found.astype(np.float64) - wanted) <= allowed).all(), f"{what}: {found} is not {wanted}"
