from __future__ import annotations

import pytest

from bi_adapter.scales import GRID, SCALES, released_scale
from bi_adapter.vtab import TASKS


def test_worked_examples():
    assert released_scale("cifar", "adaptformer", 32, False) == 0.1
    assert released_scale("cifar", "lora", 32, True) == 0.01
    assert released_scale("dsprites_ori", "adaptformer", 32, True) == 10.0
    assert released_scale("svhn", "adaptformer", 4, False) == released_scale("svhn", "adaptformer", 1, False) == 100.0
    assert released_scale("svhn", "adaptformer", 8, False) == released_scale("svhn", "adaptformer", 32, False) == 10.0


def test_every_released_adapter_has_a_scale_of_the_grid():
    assert len(SCALES) == 152
    assert {task for task, *_ in SCALES} == set(TASKS)
    assert set(SCALES.values()) <= set(GRID)


def test_bad_input():
    with pytest.raises(ValueError, match="none was released for vpt on cifar"):
        released_scale("cifar", "vpt", 1, False)
