"""Pre-training with parameters divided among processes (FSDP): as one process does it, stopped and continued or not."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch.distributed.tensor import DTensor

from lmim import LocalMim
from lmim.config import MimConfig, PretrainingConfig
from lmim.pretraining import pretrain
from lmim.sharding import whole_state
from lmim.swin_mim import SwinLocalMim
from sextet.errors import Interrupted
from sextet.processes import launch
from sextet.training import read_log

CPU = torch.device("cpu")
CONFIG = PretrainingConfig(
    epochs=3, warmup_epochs=1, batch=16, accumulation=2, base_lr=0.03, lr_min=0.0, precision="fp32", sharded=True
)
SWIN = MimConfig(
    backbone="swin", image=96, patch=4, channels=1, dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4,
    decoder_dims=(8,), decoder_heads=2, bins=4, scales=(1.0,),
)  # fmt: skip


def small(kind):
    torch.manual_seed(0)
    if kind == "swin":
        return SwinLocalMim.of(SWIN).double()
    return LocalMim(16, 4, 8, 7, 2, decoder_dim=8, decoder_heads=2, bins=4, channels=1).double()


def images(number, side):
    return torch.randn(4, 1, side, side, generator=torch.Generator().manual_seed(number)).double()


def job(accelerator, device, kind, config, folder, stop_at):
    """One process of the training; the first one writes the whole model."""
    model = small(kind)

    def batch(number):
        if number == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return images(number, 96 if kind == "swin" else 16)

    pretrain(
        model, batch, config, folder, steps_per_epoch=2, seed=5, device=device, accelerator=accelerator, save_every=4
    )
    assert config.sharded == isinstance(next(model.parameters()), DTensor)
    state = whole_state(model)
    if accelerator is None or accelerator.is_main_process:
        safetensors.torch.save_file(state, folder / "model.safetensors")


def trained(folder, kind, processes, stop_at=-1):
    config = replace(CONFIG, sharded=processes > 1, accumulation=4 // processes)
    launch(job, (kind, config, folder, stop_at), folder=folder, device=CPU, processes=processes)
    return safetensors.torch.load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_divided_among_two_processes_is_whole_in_one(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    wanted = trained(tmp_path / "one", kind, 1)
    found = trained(tmp_path / "two", kind, 2)
    assert found.keys() == wanted.keys()
    start = small(kind).state_dict()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8, msg=name)
    assert sum(not value.equal(start[name]) for name, value in wanted.items()) > 0.9 * len(wanted)
    with pytest.raises(Interrupted):
        trained(tmp_path / "stopped", kind, 2, stop_at=9)  # micro-batch 9 is in the third step, of the second process
    assert len(read_log(tmp_path / "stopped")) < len(read_log(tmp_path / "two")) == 6
    continued = trained(tmp_path / "stopped", kind, 2)
    for name, value in found.items():
        assert value.equal(continued[name]), name
    assert read_log(tmp_path / "stopped") == read_log(tmp_path / "two")


def test_what_does_not_go_with_it(tmp_path):
    with pytest.raises(ValueError, match="expected several processes"):
        pretrain(small("vit"), images, CONFIG, tmp_path, steps_per_epoch=2, seed=5, device=CPU)
    with pytest.raises(ValueError, match="no probes"):
        pretrain(
            small("vit"), images, CONFIG, tmp_path, steps_per_epoch=2, seed=5, device=CPU, after_epoch=lambda _: {}
        )
    with pytest.raises(ValueError, match="got fp16"):
        replace(CONFIG, precision="fp16")
