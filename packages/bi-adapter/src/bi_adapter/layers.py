"""Linear layers without bias in two states, trainable and stored, and the bottleneck that adapters are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bi_adapter import codebooks, packing
from bi_adapter.packing import StoredMatrix
from bi_adapter.quantise import QUANTISERS, check_matrix, codebook_name, encode, fake_quantize, initial_step

UP_STD = 1e-3


class QuantLinear(nn.Module):
    """A linear layer whose latent weight is quantised in every forward pass (Section 3.2).

    Mean, standard deviation and levels are computed in the latent's precision, float32 as a rule, also under autocast.

    Attributes:
        weight: latent [out_features, in_features].
        step: the learned scale of the quantiser `learned-step`, else None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bits: int,
        *,
        quantiser: str = "median",
        codebook: str = "converged",
        per_row: bool = False,
        statistic_gradients: bool = True,
        generator: torch.Generator | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if bits < 16:
            check_matrix((out_features, in_features), per_row)
            codebooks.codebook(codebook_name(quantiser, codebook), bits)
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        self.quantiser, self.codebook = quantiser, codebook
        self.per_row, self.statistic_gradients = per_row, statistic_gradients
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        init_default(self.weight, generator)
        learned = bits < 16 and QUANTISERS[quantiser].learned_step
        self.step = nn.Parameter(initial_step(self.weight, bits, per_row)) if learned else None

    @torch.no_grad()
    def set_latent(self, weight: Tensor) -> None:
        """Put in a latent weight [out_features, in_features]; a learned step starts anew."""
        self.weight.copy_(weight)
        if self.step is not None:
            self.step.copy_(initial_step(self.weight, self.bits, self.per_row))

    def effective_weight(self) -> Tensor:
        """[out_features, in_features] of the forward pass, with the straight-through gradient."""
        stochastic = self.training and self.bits < 16 and QUANTISERS[self.quantiser].stochastic
        return fake_quantize(
            self.weight,
            self.bits,
            quantiser=self.quantiser,
            codebook_kind=self.codebook,
            per_row=self.per_row,
            statistic_gradients=self.statistic_gradients,
            step=self.step,
            noise=torch.rand_like(self.weight) if stochastic else None,
        )

    def stored(self) -> StoredMatrix:
        """What is written to a file."""
        return encode(
            self.weight,
            self.bits,
            quantiser=self.quantiser,
            codebook_kind=self.codebook,
            per_row=self.per_row,
            step=self.step,
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return F.linear(x, self.effective_weight().to(x.dtype))

    def extra_repr(self) -> str:
        """Sizes and bits."""
        return f"{self.in_features}, {self.out_features}, bits={self.bits}"


class StoredLinear(nn.Module):
    """A linear layer without bias from a stored matrix; for inference, and to be written again byte for byte.

    Attributes:
        packed, stats_bytes: what is stored, as bytes, so that no change of dtype touches it.
        weight: the decoded weights; None for `dequantised=False`, which multiplies by the packed levels.
    """

    packed: Tensor
    stats_bytes: Tensor
    weight: Tensor | None

    def __init__(self, stored: StoredMatrix, *, dequantised: bool = True, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = stored.shape
        self.bits, self.codebook = stored.bits, stored.codebook
        self.register_buffer("packed", stored.packed)
        self.register_buffer("stats_bytes", packing.to_bytes(stored.stats))
        weight = packing.decode(stored).to(dtype or torch.float32) if dequantised or stored.bits >= 16 else None
        self.register_buffer("weight", weight, persistent=False)
        self.register_load_state_dict_post_hook(_decode_again)

    def stored(self) -> StoredMatrix:
        """What it was made of."""
        stats = packing.from_bytes(self.stats_bytes, torch.float32).view(-1, 2)
        return StoredMatrix(self.packed, stats, (self.out_features, self.in_features), self.bits, self.codebook)

    def effective_weight(self) -> Tensor:
        """[out_features, in_features]."""
        return packing.decode(self.stored()) if self.weight is None else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        if self.weight is None:
            return packing.packed_linear(x, self.stored())
        return F.linear(x, self.weight.to(x.dtype))

    def extra_repr(self) -> str:
        """Sizes and bits."""
        return f"{self.in_features}, {self.out_features}, bits={self.bits}"


Matrix = QuantLinear | StoredLinear


class Bottleneck(nn.Module):
    """An adapter's two matrices: s U(Drop(D x)), with a ReLU behind D for the AdaptFormer type (Section 3.3).

    Attributes:
        adapter_down: D, [h, in].
        adapter_up: U, [out, h].
    """

    adapter_down: Matrix
    adapter_up: Matrix

    def __init__(self, down: Matrix, up: Matrix, *, scale: float, dropout: float, relu: bool) -> None:
        super().__init__()
        self.adapter_down, self.adapter_up = down, up
        self.scale, self.dropout, self.relu = scale, dropout, relu

    def expand(self, hidden: Tensor) -> Tensor:
        """From D x [..., h], [..., out]."""
        if self.relu:
            hidden = F.relu(hidden)
        hidden = F.dropout(hidden, self.dropout, self.training)
        return self.adapter_up(hidden * self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self.expand(self.adapter_down(x))

    def update(self) -> Tensor:
        """s U D, [out, in] in float32 or float64: what a LoRA adds to a weight."""
        down, up = self.adapter_down.effective_weight(), self.adapter_up.effective_weight()
        return self.scale * (up @ down)

    def extra_repr(self) -> str:
        """Scale and dropout."""
        return f"scale={self.scale}, dropout={self.dropout}, relu={self.relu}"


class LoraPair(nn.Module):
    """The query's and the value's adapter of a fused projection, which read the same input."""

    def __init__(self, lora_q: Bottleneck, lora_v: Bottleneck) -> None:
        super().__init__()
        self.lora_q, self.lora_v = lora_q, lora_v

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Updates of query and value, [..., out] each."""
        both = [part.adapter_down.effective_weight() for part in (self.lora_q, self.lora_v)]
        query, value = F.linear(x, torch.cat(both).to(x.dtype)).chunk(2, dim=-1)
        return self.lora_q.expand(query), self.lora_v.expand(value)


def init_default(weight: Tensor, generator: torch.Generator | None = None) -> None:
    """U(-1/sqrt(in), 1/sqrt(in)), the default of `nn.Linear`, in place (Section 3.4: D and classifier)."""
    bound = 1 / math.sqrt(weight.shape[1])
    with torch.no_grad():
        weight.uniform_(-bound, bound, generator=generator)


def init_up(weight: Tensor, bits: int, generator: torch.Generator | None = None) -> None:
    """U: zero for plain floats; else a normal of std 1e-3 cut at two of them, because a constant has no levels."""
    with torch.no_grad():
        if bits >= 16:
            weight.zero_()
        else:
            nn.init.trunc_normal_(weight, 0.0, UP_STD, -2 * UP_STD, 2 * UP_STD, generator=generator)


def _decode_again(module: nn.Module, _: object) -> None:
    if isinstance(module, StoredLinear) and module.weight is not None:
        module.weight.copy_(packing.decode(module.stored()))
