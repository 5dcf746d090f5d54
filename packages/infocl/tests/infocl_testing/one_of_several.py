"""One process of a group: trains a small SimCLR on its share of each batch, or gathers rows of uneven counts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import safetensors.torch
import torch
from accelerate import Accelerator
from torch import nn

from infocl import Augmentation, LowerBoundRegularizer, SimClr, TrainingConfig, Views, train
from infocl.distributed import gather
from infocl_testing.tiny_networks import TinyDecoder


class Encoder(nn.Module):
    """Three stages without batch statistics, which processes do not share."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(before, width) for before, width in ((48, 12), (12, 10), (10, 8)))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        outputs, x = [], x.flatten(1)
        for layer in self.stages:
            x = layer(x).tanh()
            outputs.append(x)
        return outputs


def train_share(folder: Path, regulariser: str, accelerator: Accelerator | None) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (24, 4, 4, 3), dtype=torch.uint8)
    decoder = TinyDecoder() if regulariser == "rc" else None
    model = SimClr(
        Encoder(), 8, regulariser, out=5, decoder=decoder, lower_bound=LowerBoundRegularizer(sigma=0.0, rho=0.5)
    )
    config = TrainingConfig(epochs=3, batch_size=8, lr=0.01)
    source = Views(images, Augmentation(size=4), seed=1)
    train(model, source, config, folder / "run", seed=1, device=torch.device("cpu"), accelerator=accelerator)
    if accelerator is None or accelerator.is_main_process:
        safetensors.torch.save_file(model.state_dict(), folder / "weights.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(cpu=True) if several else None
    folder, task = Path(sys.argv[1]), sys.argv[2]
    if task == "uneven":
        assert accelerator is not None
        try:
            gather(torch.zeros(3 + accelerator.process_index, 2))
        except ValueError as error:
            (folder / f"error-{accelerator.process_index}").write_text(str(error))
    else:
        train_share(folder, task, accelerator)
    if several:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
