"""Output codes that turn one multi-class problem into binary ones: matrices `[way, problems]` of -1, 0 and +1."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor


def one_vs_all(n_way: int) -> Tensor:
    """M = 2I - J, `[way, way]`: every class against the rest."""
    return 2 * torch.eye(n_way) - 1


def one_vs_one(n_way: int) -> Tensor:
    """`[way, way (way-1) / 2]`: column (a, b), in lexicographic order, has +1 at a, -1 at b and 0 elsewhere."""
    columns = torch.zeros(n_way, n_way * (n_way - 1) // 2)
    for column, (first, second) in enumerate(combinations(range(n_way), 2)):
        columns[first, column] = 1
        columns[second, column] = -1
    return columns


def exhaustive(n_way: int) -> Tensor:
    """`[way, 2^(way-1) - 1]`: all columns of +-1 up to sign, without the all-equal one, in binary counting order."""
    numbers = torch.arange(2 ** (n_way - 1) - 1)
    # The first class is +1 everywhere; class c carries bit (way - 1 - c) of the column's number
    shifts = torch.arange(n_way - 2, -1, -1)
    bits = (numbers[None] >> shifts[:, None]) & 1
    return torch.cat([torch.ones(1, len(numbers)), 2.0 * bits - 1])


_CODES = {"ova": one_vs_all, "ovo": one_vs_one, "ecoc": exhaustive}


def code_matrix(code: str | Tensor, n_way: int) -> Tensor:
    """The code named `"ova"`, `"ovo"` or `"ecoc"`, or a given matrix `[way, problems]` once checked.

    Raises ValueError for an unknown name, a matrix without `n_way` rows, entries other than -1, 0, +1, or a column
    that does not set one class against another.
    """
    if isinstance(code, str):
        if code not in _CODES:
            raise ValueError(f"code: expected one of {sorted(_CODES)} or a matrix, got {code!r}")
        return _CODES[code](n_way)
    if code.ndim != 2 or code.shape[0] != n_way or code.shape[1] < 1:
        raise ValueError(f"code: expected a matrix [way={n_way}, problems], got {list(code.shape)}")
    if not bool(torch.isin(code, torch.tensor([-1, 0, 1], dtype=code.dtype, device=code.device)).all()):
        raise ValueError("code: expected entries -1, 0 or +1 only")
    if not bool(((code == 1).any(dim=0) & (code == -1).any(dim=0)).all()):
        raise ValueError("code: expected at least one +1 and one -1 in every column")
    return code
