"""Reading one golden file strictly: every array named, typed, shaped, finite, and looked at exactly once."""

from pathlib import Path

import numpy as np
import torch


class GoldenError(AssertionError):
    """A golden file does not agree with its documentation or with this package."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise GoldenError(message)


class GoldenFile:
    """Arrays of an `.npz` file; symbolic dimensions such as "n" must agree across the arrays of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            self.arrays = {name: archive[name] for name in archive.files}
        self.taken: set[str] = set()
        self.sizes: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def array(self, name: str, dtype: str, *shape: str | int) -> np.ndarray:
        """The array, after checking that it has this dtype ("U" for text) and shape and is finite."""
        require(name in self.arrays, f"{self.path.name}: documented array {name!r} is missing")
        self.taken.add(name)
        value = self.arrays[name]
        require(value.dtype.kind == "U" if dtype == "U" else value.dtype == dtype, f"{name}: dtype {value.dtype}")
        require(value.ndim == len(shape), f"{name}: shape {value.shape}, expected {shape}")
        for size, wanted in zip(value.shape, shape, strict=True):
            expected = wanted if isinstance(wanted, int) else self.sizes.setdefault(wanted, size)
            require(size == expected, f"{name}: shape {value.shape}, expected {shape} with {self.sizes}")
        if dtype == "float64":
            require(bool(np.isfinite(value).all()), f"{name}: not finite")
        return value

    def floats(self, name: str, *shape: str | int) -> torch.Tensor:
        return torch.from_numpy(self.array(name, "float64", *shape).copy())

    def integers(self, name: str, *shape: str | int) -> torch.Tensor:
        return torch.from_numpy(self.array(name, "int64", *shape).copy())

    def number(self, name: str) -> float:
        return float(self.array(name, "float64"))

    def whole(self, name: str, low: int = 1) -> int:
        value = int(self.array(name, "int64"))
        require(value >= low, f"{name}: {value} is below {low}")
        return value

    def finish(self) -> None:
        """Fail on arrays nobody asked for."""
        extra = sorted(set(self.arrays) - self.taken)
        require(not extra, f"{self.path.name}: undocumented arrays {extra}")

    def close(self, name: str, ours: torch.Tensor, tolerance: float, *shape: str | int) -> None:
        """The float64 array equals ours within an absolute tolerance."""
        theirs = self.floats(name, *shape)
        require(theirs.shape == ours.shape, f"{name}: shape {tuple(theirs.shape)}, ours {tuple(ours.shape)}")
        error = float((theirs - ours.detach()).abs().max())
        # Written so that NaN fails
        require(error <= tolerance, f"{name}: differs by {error:.3g}, tolerance {tolerance:.3g}")

    def relatively_close(self, name: str, ours: torch.Tensor, tolerance: float, *shape: str | int) -> None:
        """As `close`, relative to the largest entry of the array; for float32 runs and SVM gradients."""
        largest = float(self.floats(name, *shape).abs().max())
        self.close(name, ours.double(), tolerance * largest, *shape)

    def equal(self, name: str, ours: torch.Tensor, *shape: str | int) -> None:
        """The int64 array equals ours."""
        theirs = self.integers(name, *shape)
        require(torch.equal(theirs, ours), f"{name}: integers differ")
