"""Output codes that turn one multi-class problem into binary ones: matrices `[way, problems]` of -1, 0 and +1."""

from __future__ import annotations

import torch
from torch import Tensor

Device = torch.device | str | None


def one_vs_all(n_way: int, device: Device = None) -> Tensor:
    """M = 2I - J, `[way, way]`: every class against the rest."""
    return 2 * torch.eye(n_way, device=device) - 1


def one_vs_one(n_way: int, device: Device = None) -> Tensor:
    """`[way, way (way-1) / 2]`: column (a, b), in lexicographic order, has +1 at a, -1 at b and 0 elsewhere."""
    first, second = torch.triu_indices(n_way, n_way, offset=1, device=device)
    identity = torch.eye(n_way, device=device)
    return identity[:, first] - identity[:, second]


def exhaustive(n_way: int, device: Device = None) -> Tensor:
    """`[way, 2^(way-1) - 1]`: all columns of +-1 up to sign, without the all-equal one, in binary counting order."""
    numbers = torch.arange(2 ** (n_way - 1) - 1, device=device)
    # Class c > 0 carries bit (way - 1 - c) of the column's number; class 0 is +1 everywhere
    shifts = torch.arange(n_way - 2, -1, -1, device=device)
    bits = (numbers[None] >> shifts[:, None]) & 1
    return torch.cat([torch.ones_like(bits[:1]), 2 * bits - 1]).float()


_CODES = {"ova": one_vs_all, "ovo": one_vs_one, "ecoc": exhaustive}


def code_matrix(code: str | Tensor, n_way: int, device: Device = None) -> Tensor:
    """The code named `"ova"`, `"ovo"` or `"ecoc"`, made on `device`; or a given matrix `[way, problems]` once checked.

    Raises ValueError for an unknown name, a matrix without `n_way` rows, entries other than -1, 0, +1, or a column
    that does not set one class against another.
    """
    if isinstance(code, str):
        if code not in _CODES:
            raise ValueError(f"code: expected one of {sorted(_CODES)} or a matrix, got {code!r}")
        return _CODES[code](n_way, device)
    if code.ndim != 2 or code.shape[0] != n_way or code.shape[1] < 1:
        raise ValueError(f"code: expected a matrix [way={n_way}, problems], got {list(code.shape)}")
    if not bool(torch.isin(code, torch.tensor([-1, 0, 1], dtype=code.dtype, device=code.device)).all()):
        raise ValueError("code: expected entries -1, 0 or +1 only")
    if not bool(((code == 1).any(dim=0) & (code == -1).any(dim=0)).all()):
        raise ValueError("code: expected at least one +1 and one -1 in every column")
    return code
