"""Stages of any encoder: torchvision's, timm's, or one's own (3.2, the LBE term wants several)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class StageTaps(nn.Module):
    """An encoder whose named submodules' outputs are pooled and returned; what comes after the last one is not used.

    Maps [batch, channels, h, w] are averaged over positions; so are tokens [batch, tokens, channels], without the
    first `prefix_tokens`; [batch, channels] stay. Channels-last maps [batch, h, w, channels], as of Swin in timm, need
    `channels_last`.

    Args:
        encoder: any module.
        names: of submodules in the order of the data, as in `encoder.named_modules()`; the last one's output is the
            representation. `layer2`, `layer3`, `layer4` for torchvision's and timm's ResNets; `blocks.5`, `blocks.11`
            for a ViT.
        prefix_tokens: class and register tokens to leave out of the mean; -1 takes the encoder's own
            `num_prefix_tokens`, 0 where it has none.
        channels_last: whether maps are [batch, h, w, channels].

    Raises:
        ValueError: a name that the encoder does not have, with those that it has.
    """

    def __init__(
        self, encoder: nn.Module, names: Sequence[str], *, prefix_tokens: int = -1, channels_last: bool = False
    ) -> None:
        super().__init__()
        modules = dict(encoder.named_modules())
        unknown = [name for name in names if name not in modules or not name]
        if unknown or not names:
            known = [name for name in modules if name and name.count(".") < 2]
            raise ValueError(
                f"names: expected submodules of {type(encoder).__name__}, got {list(names)}; "
                f"it has {', '.join(known[:40])}{', ...' if len(known) > 40 else ''}"
            )
        self.encoder, self.names, self.channels_last = encoder, tuple(names), channels_last
        own = int(getattr(encoder, "num_prefix_tokens", 0))
        self.prefix_tokens = own if prefix_tokens < 0 else prefix_tokens

    def forward(self, images: Tensor) -> list[Tensor]:
        """Pooled outputs [batch, channels] of the named submodules, in their order.

        Raises:
            ValueError: a submodule that did not run, ran twice, or gave something that cannot be pooled.
        """
        found: dict[str, list[Tensor]] = {name: [] for name in self.names}
        handles = [self._tap(name, found[name]) for name in self.names]
        try:
            self.encoder(images)
        finally:
            for handle in handles:
                handle.remove()
        for name, outputs in found.items():
            if len(outputs) != 1:
                raise ValueError(f"{name}: expected to run once in a forward pass, ran {len(outputs)} times")
        return [self.pool(found[name][0], name) for name in self.names]

    def _tap(self, name: str, outputs: list[Tensor]) -> RemovableHandle:
        return self.encoder.get_submodule(name).register_forward_hook(lambda *hook: outputs.append(hook[2]))

    def pool(self, output: Tensor, name: str) -> Tensor:
        """[batch, channels] of one submodule's output."""
        if isinstance(output, Tensor) and output.ndim == 4:
            return output.mean(dim=(1, 2) if self.channels_last else (2, 3))
        if isinstance(output, Tensor) and output.ndim == 3:
            return output[:, self.prefix_tokens :].mean(dim=1)
        if isinstance(output, Tensor) and output.ndim == 2:
            return output
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"{name}: expected maps, tokens or vectors, got {found}; name another submodule")

    @torch.no_grad()
    def widths(self, image: Tensor) -> list[int]:
        """Channels of each stage, found by a forward pass of images [batch, 3, h, w] in evaluation mode."""
        training = self.training
        widths = [stage.shape[1] for stage in self.eval()(image)]
        self.train(training)
        return widths
