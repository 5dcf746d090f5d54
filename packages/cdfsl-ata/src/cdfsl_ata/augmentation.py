"""Adversarial task augmentation: the worst task near a source task, for any episodic learner (the paper, section 3).

    phi(T0) = sup_T { L(T) - gamma d(T, T0) }          (eq. 3)

is approached by a few steps of gradient ascent on the pixels of the whole episode, from the images or, with some
probability, from one random convolution of them. The maximiser is a constant for the learner (Danskin): nothing is
differentiated through the ascent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cdfsl_ata.discrepancy import euclid, mmd
from cdfsl_ata.random_convolution import KERNEL_SIZES, check_kernel_sizes, random_start
from sextet.cuda import Precision, autocast

EpisodeLoss = Callable[[Tensor], Tensor]
Regulariser = Literal["euclid", "mmd"]
DISCREPANCIES = {"euclid": euclid, "mmd": mmd}


class ExplodingPerturbation(UserWarning):
    """The ascent moved the pixels by more than `warn_rms`: step_size is too large for this loss and image size."""


class AscentDiverged(ArithmeticError):
    """Pixels became NaN or infinite in the ascent."""


@dataclass(frozen=True)
class AugmentedTask:
    """The harder task and what happened on the way.

    Attributes:
        images: same shape as the episode, detached.
        kernel_size: of the random convolution; 0 where the ascent began at the images themselves.
        losses: [steps] objective's loss L (without regulariser) before each step.
        loss_after: L at `images`, or None where it was not measured.
        rms: root mean square of `images` minus the ascent's start, in the units of the (normalised) pixels.
    """

    images: Tensor
    kernel_size: int
    losses: Tensor
    loss_after: Tensor | None
    rms: Tensor

    def log(self) -> dict[str, Tensor | float]:
        """Scalars for a training log; they stay on the device."""
        values: dict[str, Tensor | float] = {"perturbation_rms": self.rms, "kernel_size": float(self.kernel_size)}
        if len(self.losses):
            values["loss_before"] = self.losses[0]
        if self.loss_after is not None:
            values["loss_after"] = self.loss_after
        return values


class AdversarialTaskAugmenter:
    """Replaces an episode by a harder one near it; labels (the order of the classes) stay.

    The model keeps its parameters, its buffers, the `.grad` of every parameter and the training flag of every module.
    The ascent itself draws no random numbers; the start draws none with `p_original=1`. With `steps=0` and
    `p_original=1` training is therefore plain training, bit for bit.

    Args:
        episode_loss: images [n_way, n_support + n_query, channels, height, width] -> scalar loss of the learner on
            the episode. A learner of this package, or any function.
        steps: T_max >= 0, steps of ascent.
        step_size: beta > 0. In units of pixels per unit of gradient (useful values depend on the loss, the number of
            queries and the image size); with `normalise` in units of normalised pixels.
        p_original: p, probability of starting at the images, in [0, 1]; else from one random convolution of the task.
        kernel_sizes: K, the pool of kernel sizes; odd.
        regulariser: None (the method), or `euclid` or `mmd`: subtract that discrepancy of features, times `weight`.
        weight: lambda >= 0.
        features: images -> [n_images, dim], for a regulariser; by default `episode_loss.features`.
        normalise: divide the gradient by its root mean square over the task.
        project: radius of the ball around the start that the images stay in, as root mean square, or None.
        model: module(s) to put in evaluation mode during the ascent; by default `episode_loss` where it is a module
            or a method of one.
        precision: of the inner loop: fp32, tf32 or bf16. fp16 is refused: pixel gradients underflow in it.
        warn_rms: perturbations above this root mean square give an `ExplodingPerturbation` warning.

    Raises:
        ValueError: a value out of range, or a regulariser without features.
    """

    def __init__(
        self,
        episode_loss: EpisodeLoss,
        steps: int = 5,
        step_size: float = 80.0,
        p_original: float = 0.5,
        kernel_sizes: Sequence[int] = KERNEL_SIZES,
        *,
        regulariser: Regulariser | None = None,
        weight: float = 1.0,
        features: Callable[[Tensor], Tensor] | None = None,
        normalise: bool = False,
        project: float | None = None,
        model: nn.Module | Sequence[nn.Module] | None = None,
        precision: Precision = "fp32",
        warn_rms: float = 10.0,
    ) -> None:
        check_settings(steps, step_size, p_original, weight, project, precision)
        if regulariser is not None and regulariser not in DISCREPANCIES:
            raise ValueError(f"regulariser: expected None, euclid or mmd, got {regulariser!r}")
        features = features or getattr(episode_loss, "features", None)
        if regulariser is not None and features is None:
            raise ValueError(
                f"features: regulariser {regulariser!r} needs a function from images to [n_images, dim], got None"
            )
        self.episode_loss = episode_loss
        self.steps, self.step_size, self.p_original = steps, step_size, p_original
        self.kernel_sizes = check_kernel_sizes(kernel_sizes)
        self.regulariser, self.weight, self.features = regulariser, weight, features
        self.normalise, self.project, self.warn_rms = normalise, project, warn_rms
        self.precision: Precision = precision
        self.models = modules_of(episode_loss) if model is None else [model] if isinstance(model, nn.Module) else model

    def __call__(
        self, images: Tensor, generator: torch.Generator | None = None, *, measure: bool = False
    ) -> AugmentedTask:
        """The harder task.

        Args:
            images: [n_way, n_support + n_query, channels, height, width], augmented and normalised. Not changed.
            generator: CPU generator of the random start; None for torch's default one.
            measure: whether to compute `loss_after`, which costs one more forward pass.

        Raises:
            ValueError: pixels that are not finite, a loss that is no scalar or has no gradient to the pixels.
            AscentDiverged: pixels overflowed in the ascent.
        """
        if images.ndim != 5:
            raise ValueError(
                "images: expected [n_way, n_support + n_query, channels, height, width], got " + str(list(images.shape))
            )
        if not bool(torch.isfinite(images).all()):
            raise ValueError("images: expected finite pixels, found NaN or infinity; check the images of this episode")
        start = random_start(images, self.p_original, self.kernel_sizes, generator)
        with evaluating(self.models), torch.enable_grad():
            moved, losses = self._ascend(start.images)
            after = None
            if measure:
                with torch.no_grad():
                    after = self._loss(moved)
        rms = (moved - start.images).square().mean().sqrt()
        if self.steps:
            self._check(float(rms))
        return AugmentedTask(moved, start.kernel_size, torch.stack(losses) if losses else rms.new_zeros(0), after, rms)

    def _ascend(self, start: Tensor) -> tuple[Tensor, list[Tensor]]:
        """X <- X + beta grad_X { L(X) - lambda d(f(X), f(X_0)) }, `steps` times."""
        images, losses = start, []
        origin = None
        if self.regulariser is not None and self.features is not None and self.steps > 1:
            with torch.no_grad(), autocast(start.device, self.precision):
                origin = self.features(start)
        for step in range(self.steps):
            leaf = images.detach().requires_grad_()
            loss = self._loss(leaf)
            losses.append(loss.detach())
            # At the first step f(X) = f(X_0), where both discrepancies have gradient zero
            objective = loss if step == 0 or origin is None else loss - self._penalty(leaf, origin)
            images = self._project(leaf.detach() + self.step_size * self._gradient(objective, leaf), start)
        return images.detach(), losses

    def _loss(self, images: Tensor) -> Tensor:
        with autocast(images.device, self.precision):
            loss = self.episode_loss(images)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            found = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"episode_loss: expected a scalar tensor, got {found}; average over the queries")
        return loss

    def _penalty(self, images: Tensor, origin: Tensor) -> Tensor:
        assert self.features is not None
        assert self.regulariser is not None
        with autocast(images.device, self.precision):
            features = self.features(images)
        return self.weight * DISCREPANCIES[self.regulariser](features.to(images.dtype), origin.to(images.dtype))

    def _gradient(self, objective: Tensor, leaf: Tensor) -> Tensor:
        gradient = None
        if objective.requires_grad:
            (gradient,) = torch.autograd.grad(objective, leaf, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "episode_loss: expected a gradient to the pixels, found none; "
                "do not detach the features nor compute them under torch.no_grad()"
            )
        if not self.normalise:
            return gradient
        return gradient / gradient.square().mean().sqrt().clamp_min(torch.finfo(gradient.dtype).tiny)

    def _project(self, images: Tensor, start: Tensor) -> Tensor:
        """Back onto the ball of root mean square `project` around the start."""
        if self.project is None:
            return images
        shift = images - start
        rms = shift.square().mean().sqrt().clamp_min(torch.finfo(images.dtype).tiny)
        return start + shift * (self.project / rms).clamp_max(1.0)

    def _check(self, rms: float) -> None:
        advice = f"lower step_size (now {self.step_size:g}), or use normalise=True or project"
        if not torch.isfinite(torch.tensor(rms)):
            raise AscentDiverged(f"the pixels overflowed within {self.steps} steps of ascent; {advice}")
        if rms > self.warn_rms:
            warnings.warn(f"perturbation of RMS {rms:.3g} (in pixels); {advice}", ExplodingPerturbation, stacklevel=3)


def check_settings(
    steps: int, step_size: float, p_original: float, weight: float, project: float | None, precision: str
) -> None:
    """Raise ValueError for the first setting out of range."""
    rules = {
        f"steps: expected at least 0, got {steps}": steps >= 0,
        f"step_size: expected above 0, got {step_size}": step_size > 0,
        f"p_original: expected a probability of keeping the images, got {p_original}": 0 <= p_original <= 1,
        f"weight: expected at least 0, got {weight}": weight >= 0,
        f"project: expected a radius above 0 or None, got {project}": project is None or project > 0,
        f"precision: expected fp32, tf32 or bf16, got {precision!r}": precision in ("fp32", "tf32", "bf16"),
    }
    for message, kept in rules.items():
        if not kept:
            raise ValueError(message)


def modules_of(function: EpisodeLoss) -> list[nn.Module]:
    """The module that a loss is, or is a method of; empty for other functions."""
    owner = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
    return [owner] if isinstance(owner, nn.Module) else []


@contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module has its own training flag and every buffer its value again."""
    modules = [module for model in models for module in model.modules()]
    flags = [module.training for module in modules]
    buffers = [buffer for model in models for buffer in model.buffers()]
    saved = [buffer.detach().clone() for buffer in buffers]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag
        for buffer, value in zip(buffers, saved, strict=True):
            buffer.data.copy_(value)  # through .data: a graph from before the ascent stays valid
