"""The scale s of every task, the method's one tuned hyper-parameter, as the released configs have it."""

from __future__ import annotations

from collections.abc import Mapping

GRID = (0.01, 0.1, 1.0, 10.0, 100.0)
"""The values that were tried."""
_COLUMNS = (
    ("adaptformer", 1, False), ("adaptformer", 32, False), ("adaptformer", 1, True), ("adaptformer", 32, True),
    ("lora", 1, False), ("lora", 32, False), ("lora", 1, True), ("lora", 32, True),
)  # fmt: skip
_TABLE = """
    cifar                1    0.1   1    0.1   1    0.1   1    0.01
    caltech101           10   10    10   10    100  10    100  10
    dtd                  1    0.01  1    0.1   1    0.01  1    1
    oxford_flowers102    1    1     10   1     100  1     100  1
    oxford_iiit_pet      1    0.01  1    0.01  1    0.1   0.1  0.01
    svhn                 100  10    100  10    100  10    100  10
    sun397               1    0.1   10   0.1   1    0.1   1    0.01
    patch_camelyon       10   1     10   1     10   10    10   10
    eurosat              10   1     10   1     100  10    100  1
    resisc45             1    10    1    10    1    10    1    10
    diabetic_retinopathy 100  1     10   1     1    10    100  0.1
    clevr_count          10   1     10   1     10   1     10   1
    clevr_dist           10   0.1   10   0.1   10   0.1   1    0.1
    dmlab                10   1     100  1     100  10    100  10
    kitti                10   1     100  1     100  10    100  10
    dsprites_loc         10   1     10   1     100  1     100  1
    dsprites_ori         10   0.1   10   10    100  0.1   100  10
    smallnorb_azi        10   1     100  10    100  10    100  10
    smallnorb_ele        10   1     100  1     100  1     100  1
"""
SCALES: Mapping[tuple[str, str, int, bool], float] = {
    (task, *column): float(value)
    for task, *values in (line.split() for line in _TABLE.strip().splitlines())
    for column, value in zip(_COLUMNS, values, strict=True)
}
"""(task, method, hidden width, whether the head has 1 bit) -> scale, for 1-bit adapters."""


def released_scale(task: str, method: str, dim: int, binary_head: bool) -> float:
    """The scale of a released 1-bit adapter; of other widths, that of the nearer one of 1 and 32 (in octaves).

    Raises:
        ValueError: a task or method without released adapters.
    """
    key = (task, method, 1 if dim < 6 else 32, binary_head)
    if key not in SCALES:
        raise ValueError(f"scale: none was released for {method} on {task}; choose it on validation images instead")
    return SCALES[key]
