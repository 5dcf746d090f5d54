"""Rounding in float32 against the naive formulation, and training in bfloat16; gradients are checked beside each
equation."""

from __future__ import annotations

import pytest
import torch
from nat_crf_testing.chains import plain_log_partition, random_chain, with_gradients
from sextet_testing.numerics import assert_as_exact, assert_near_full_precision
from torch import Tensor

from nat_crf.chain import log_partition
from nat_crf.config import preset
from nat_crf.fused_projection import project
from nat_crf.models import Nat
from nat_crf.objective import ObjectiveConfig
from nat_crf.sequences import pad_batch
from nat_crf.training import Batch, OptimisationConfig, fit, translator_objective
from sextet.training import read_log


@pytest.mark.parametrize("method", ["loop", "scan"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_float32_of_the_recursion_and_its_gradient_is_as_exact_as_the_plain_loop(method, dynamic) -> None:
    """Scores about 1 to 30, chains up to 24 long; the gradients of the factors are those of the low-rank form."""
    trials = []
    for seed in range(5):
        for scale in (0.1, 1.0, 5.0, 30.0):
            exact, single = (
                random_chain((4, 24, 8, 4), scale=scale, dynamic=dynamic, seed=seed, dtype=dtype)
                for dtype in (torch.float64, torch.float32)
            )
            ours = with_gradients(lambda chain: log_partition(chain, method), single)
            trials.append(
                (ours, with_gradients(plain_log_partition, single), with_gradients(plain_log_partition, exact))
            )
    for part in range(len(trials[0][0])):
        assert_as_exact([tuple(each[part] for each in trial) for trial in trials])


def test_float32_of_the_fused_normaliser_is_as_exact_as_the_whole_matrix() -> None:
    trials = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        for scale in (0.1, 1.0, 30.0):
            states, weight = (torch.randn(*shape, generator=generator) for shape in ((2, 5, 32), (300, 32)))
            states = scale * states
            exact = (states.double() @ weight.double().mT).logsumexp(dim=2)
            ours = project(states, weight, 4, most_at_once=900).log_normalizer
            trials.append((ours, (states @ weight.mT).logsumexp(dim=2), exact))
    assert_as_exact(trials)


def trained(folder, precision, crf, fused) -> tuple[Tensor, Nat]:
    sources = [[4 + (i + j) % 6 for j in range(2 + i % 3)] for i in range(24)]
    targets = [[word + 1 for word in reversed(row)] for row in sources]

    def batch(step: int) -> Batch:
        rows = torch.randint(24, (12,), generator=torch.Generator().manual_seed(step)).tolist()
        return Batch(*(pad_batch([side[row] for row in rows], "eos") for side in (sources, targets)))

    torch.manual_seed(0)
    sizes = {"dim": 32, "ffn_dim": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0, "beam": 4}
    model = Nat(preset("laptop", crf=crf, **sizes), 12, 12)
    config = OptimisationConfig(steps=24, lr=5e-3, warmup=5, schedule="linear", save_every=100, precision=precision)
    objective = translator_objective(model, ObjectiveConfig(fused=fused))
    fit(model, objective, batch, config, folder, seed=1, device=torch.device("cpu"), title="test")
    return torch.tensor([entry["loss"] for entry in read_log(folder)]), model


@pytest.mark.parametrize(("crf", "fused"), [("none", False), ("dynamic", False), ("dynamic", True)])
def test_training_in_bfloat16_is_near_float32(crf, fused, tmp_path) -> None:
    full, half = (trained(tmp_path / precision, precision, crf, fused) for precision in ("fp32", "bf16"))
    assert_near_full_precision(full, half, tolerance=0.05)
