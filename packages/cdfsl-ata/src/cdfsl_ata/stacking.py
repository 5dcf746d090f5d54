"""Fine-tuning of several test tasks at once: their models stacked, each with its own weights, data and statistics.

Steps on a few images a task leave a GPU idle; stacked, every operation serves all tasks (a convolution becomes a
grouped one). Optimisers that act element by element (SGD, Adam) do on stacked parameters what they do on each task's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from cdfsl_ata.finetuning import dampened_sgd

Objective = Callable[..., Tensor]
MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class _WithObjective(nn.Module):
    """Makes the objective a module's forward pass, which is what torch.func calls."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, *batch: Tensor) -> Tensor:
        return self.objective(self.model, *batch)


def fine_tune_stacked(
    models: Sequence[nn.Module],
    objective: Objective,
    batches: Iterable[tuple[Tensor, ...]],
    make_optimizer: MakeOptimizer = dampened_sgd,
) -> Tensor:
    """Fine-tune all models at once; the same as one after the other, up to rounding.

    Args:
        models: one a task, of one architecture; changed in place, left in training mode.
        objective: (model, *batch of one task) -> scalar, such as `classification_loss` or `episode_loss` of
            `cdfsl_ata.finetuning`. It may not
            branch on values nor draw random numbers.
        batches: one a step; tensors [tasks, ...].
        make_optimizer: parameters -> optimiser, one that acts element by element; by default the published
            `finetuning.dampened_sgd`, `adam`
            of the same module for episodes.

    Returns:
        The losses before each step, [steps, tasks].

    Raises:
        ValueError: no models, or a batch for another number of tasks.
    """
    if not models:
        raise ValueError("models: expected at least one")
    wrapped = [_WithObjective(model.train(), objective) for model in models]
    parameters, buffers = stack_module_state(wrapped)
    trained = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    optimizer = make_optimizer(trained.values())

    def loss(weights: dict[str, Tensor], state: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        state = {name: value.clone() for name, value in state.items()}
        return functional_call(wrapped[0], (weights, state), batch), state

    step = vmap(grad_and_value(loss, has_aux=True))
    losses = []
    for batch in batches:
        if any(len(part) != len(models) for part in batch):
            raise ValueError(f"batches: expected tensors of {len(models)} tasks, got {[len(part) for part in batch]}")
        gradients, (values, buffers) = step({k: v.detach() for k, v in trained.items()}, buffers, *batch)
        for name, value in trained.items():
            value.grad = gradients[name]
        optimizer.step()
        losses.append(values)
    for index, module in enumerate(wrapped):
        module.load_state_dict({name: value[index] for name, value in {**trained, **buffers}.items()})
    return torch.stack(losses)
