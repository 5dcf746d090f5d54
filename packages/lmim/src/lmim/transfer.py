"""What dense tasks share (section 8): an encoder out of a stage of `lmim.paper`, and a head that is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import safetensors.torch
import torch
from torch import nn

from lmim.classifiers import make_classifier
from lmim.config import MimConfig
from lmim.conversion import encoder_state
from lmim.features import SwinFeatures, VitFeatures, start_features
from lmim.imagenet import IMAGENET
from lmim.paper import PaperConfig, fine_tuning_stage, load_pretrained, pretraining_stage
from lmim.pretraining import counter_seed, numbers_of_step, rows_of_steps, set_rate
from sextet.cuda import Precision, seed_everything, select_device
from sextet.data import Passport
from sextet.files import write_atomic
from sextet.processes import Job, launch
from sextet.recipe import RunContext, plain
from sextet.training import Training

if TYPE_CHECKING:
    from accelerate import Accelerator

    from lmim.loading import Stream


class TransferConfig(Protocol):
    """What a task's config has to say."""

    @property
    def start(self) -> str:
        """`pretrained`, `fine-tuned` on ImageNet's classes besides, or `scratch`."""
        ...

    @property
    def batch(self) -> int:
        """Images a step, over all devices."""
        ...

    @property
    def devices(self) -> int:
        """Processes with a device each."""
        ...

    @property
    def precision(self) -> Precision:
        """Of the forward pass."""
        ...

    def pretraining(self) -> PaperConfig:
        """The cell of the paper whose encoder is used."""
        ...


def check_transfer(config: TransferConfig) -> None:
    """Raise ValueError for an unknown start, a batch that devices cannot share, or a cell that the paper has not."""
    if config.start not in ("pretrained", "fine-tuned", "scratch"):
        raise ValueError(f"start: expected pretrained, fine-tuned or scratch, got {config.start!r}")
    if config.batch % config.devices:
        raise ValueError(f"batch: expected a multiple of {config.devices} devices, got {config.batch}")
    config.pretraining()


def transfer_data(config: TransferConfig, target: Passport) -> Sequence[Passport]:
    """The datasets that a cell needs, `target` being that of its task."""
    return (target,) if config.start == "scratch" else (IMAGENET, target)


def transfer_stage(name: str, job: Job, config: Any, context: RunContext) -> Path:
    """Folder of what `job` makes on the encoder that the config asks for, which is trained before if need be.

    Args:
        name: of the stage.
        job: called in each process with (accelerator, device, config, folder of the encoder's stage or None for a new
            one, folder, seed, data root).
        config: a `TransferConfig`, a dataclass.
        context: of the run.
    """
    device, before = select_device(context.device), None
    if config.start != "scratch":
        stage = pretraining_stage if config.start == "pretrained" else fine_tuning_stage
        before = stage(config.pretraining(), context)

    def build(folder: Path) -> None:
        arguments = config, before, folder, context.seed, context.data_root
        launch(job, arguments, folder=folder, device=device, processes=config.devices)

    recipe = {key: value for key, value in plain(config).items() if key != "workers"}
    recipe |= {"start_from": before.name if before else "", "seed": context.seed}
    return context.stage(name, recipe, build, uses=(job.__module__,))


def start_backbone(
    backbone: VitFeatures | SwinFeatures, config: TransferConfig, model: MimConfig, before: Path | None
) -> None:
    """Put the encoder of a stage of `lmim.paper` into a backbone, in place; None leaves it new."""
    if before is None:
        return
    if config.start == "pretrained":
        source = load_pretrained(model, before)
    else:
        state = safetensors.torch.load_file(before / "classifier.safetensors")
        source = make_classifier(model, len(state["head.bias"]))
        source.load_state_dict(state)
    start_features(backbone, encoder_state(source))


def is_decayed_dense_swin(name: str) -> bool:
    """Whether a parameter of a dense Swin or its head decays: norms and position biases do not."""
    return "norm" not in name and "relative_position_bias_table" not in name


def train_head(
    model: nn.Module, forward: nn.Module, groups: list[dict[str, Any]], stream: Stream, config: TransferConfig,
    folder: Path, *, steps: int, rate: Callable[[int], float], seed: int, device: torch.device, title: str,
    accelerator: Accelerator | None = None, measure: Callable[[int], dict[str, Any]] = lambda _: {},
) -> None:  # fmt: skip
    """Train `model` in place with AdamW; resumes from `folder`.

    Args:
        model: backbone and head.
        forward: the forward pass of a batch as a module: called with what the stream gives, it returns a scalar.
        groups: of parameters.
        stream: batches by the number of the micro-batch, see `lmim.pretraining.pretrain`.
        config: a dataclass, which identifies the run.
        folder: checkpoints and log.
        steps: length of the run.
        rate: step -> learning rate.
        seed: of everything random in the forward pass.
        device: where to compute.
        title: of the progress bar.
        accelerator: for several processes.
        measure: called after every step; what it returns is logged, and the model put into training mode again.
    """
    model.train()
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999))
    forward = accelerator.prepare_model(forward) if accelerator else forward
    with Training(
        folder, steps=steps, state={"model": model, "optimizer": optimizer}, config={**plain(config), "seed": seed},
        save_every=500, device=device, precision=config.precision, accelerator=accelerator, progress=title,
        rows=rows_of_steps(stream.rows, 1, accelerator),
    ) as training:  # fmt: skip
        for step in training:
            set_rate(optimizer, rate(step))
            (number,) = numbers_of_step(step, 1, accelerator)
            batch = stream(number)
            seed_everything(counter_seed(seed, number))
            with training.autocast():
                loss = forward(*batch)
            training.backward(loss)
            training.optimizer_step(optimizer)
            training.log(loss=loss, lr=optimizer.param_groups[0]["lr"])
            if found := measure(step):
                training.log(**found)
                model.train()


def save_model(model: nn.Module, path: Path) -> None:
    """The weights of a model, whole and on the CPU, as safetensors."""
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomic(path, safetensors.torch.save(state))
