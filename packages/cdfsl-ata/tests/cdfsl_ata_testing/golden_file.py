"""Reading one golden file strictly: every array named, typed, shaped, finite, and looked at."""

from pathlib import Path

import numpy as np
import torch


class GoldenError(AssertionError):
    """A golden file does not agree with its documentation or with this package."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise GoldenError(message)


class GoldenFile:
    """Arrays of an `.npz` file; symbolic dimensions such as "V" must agree across the arrays of the file."""

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
        if dtype in ("float32", "float64"):
            require(bool(np.isfinite(value).all()), f"{name}: not finite")
        return value

    def floats(self, name: str, *shape: str | int) -> torch.Tensor:
        return torch.from_numpy(self.array(name, "float64", *shape).copy())

    def integers(self, name: str, *shape: str | int) -> torch.Tensor:
        return torch.from_numpy(self.array(name, "int64", *shape).copy())

    def booleans(self, name: str, *shape: str | int) -> torch.Tensor:
        return torch.from_numpy(self.array(name, "bool", *shape).copy())

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

    def close(
        self, name: str, ours: torch.Tensor, *shape: str | int, rtol: float, atol: float, dtype: str = "float64"
    ) -> None:
        """|theirs - ours| <= atol + rtol |theirs| everywhere."""
        theirs = torch.from_numpy(self.array(name, dtype, *shape).astype(np.float64))
        require(theirs.shape == ours.shape, f"{name}: shape {tuple(theirs.shape)}, ours {tuple(ours.shape)}")
        excess = (theirs - ours.detach().double()).abs() - atol - rtol * theirs.abs()
        # Written so that NaN fails
        require(theirs.numel() == 0 or float(excess.max()) <= 0, f"{name}: over the tolerance by {excess.max():.3g}")

    def equal(self, name: str, ours: torch.Tensor, *shape: str | int, where: torch.Tensor | None = None) -> None:
        """The int64 array equals ours, where `where` is True."""
        theirs = self.integers(name, *shape)
        require(theirs.shape == ours.shape, f"{name}: shape {tuple(theirs.shape)}, ours {tuple(ours.shape)}")
        same = theirs == ours
        require(bool((same if where is None else same | ~where).all()), f"{name}: integers differ")
