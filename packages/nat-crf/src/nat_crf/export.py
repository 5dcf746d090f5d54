"""Export of encoder and decoder as torch.export programs or ONNX graphs; `numpy_decoder` runs the latter."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from nat_crf.models import Nat
from nat_crf.sequences import UNK
from nat_crf.transformer import Encoded
from sextet.files import write_atomic

FORMAT = 1
INPUTS = {
    "encoder": ["source", "source_mask"],
    "decoder": ["encoder_states", "embedded", "encoder_mask", "target_mask"],
}


class EncoderGraph(nn.Module):
    """`source [B, S]`, `source_mask [B, S]` -> states, embedded `[B, S, d]` and, if learned, length logits `[B, n]`."""

    def __init__(self, model: Nat) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, source_mask: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        encoded = self.model.encode(source, source_mask)
        logits = self.model.length_logits(encoded)
        return (encoded.states, encoded.embedded) if logits is None else (encoded.states, encoded.embedded, logits)


class DecoderGraph(nn.Module):
    """What the encoder gave, its mask `[B, S]`, `target_mask [B, T]` -> emissions `[B, T, V]`, states `[B, T, d]`."""

    def __init__(self, model: Nat) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, encoder_states: Tensor, embedded: Tensor, encoder_mask: Tensor, target_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See the class."""
        states = self.model.decode_states(Encoded(encoder_states, encoder_mask, embedded), target_mask)
        return self.model.emissions(states), states


def export_programs(model: Nat) -> dict[str, torch.export.ExportedProgram]:
    """The model's `encoder` and `decoder` as programs for any batch size and any lengths up to `max_positions`."""
    was_training = model.training
    model.eval()
    most = model.config.max_positions
    batch = torch.export.Dim("batch")
    source, target = torch.export.Dim("source", max=most), torch.export.Dim("target", max=most)
    device = model.encoder.embed_tokens.weight.device
    tokens = torch.full((2, 3), UNK, device=device)
    masks = [torch.ones(2, size, dtype=torch.bool, device=device) for size in (3, 5)]
    try:
        with torch.no_grad():
            encoded = model.encode(tokens, masks[0])
            encoder = torch.export.export(
                EncoderGraph(model), (tokens, masks[0]), dynamic_shapes=({0: batch, 1: source},) * 2
            )
            decoder = torch.export.export(
                DecoderGraph(model),
                (encoded.states, encoded.embedded, *masks),
                dynamic_shapes=(*({0: batch, 1: source},) * 3, {0: batch, 1: target}),
            )
    finally:
        model.train(was_training)
    return {"encoder": encoder, "decoder": decoder}


def export_onnx(model: Nat, folder: Path) -> None:
    """Write `encoder.onnx`, `decoder.onnx`, the CRF's weights and the settings, for `NumpyDecoder`.

    Raises:
        ValueError: the packages `onnx` and `onnxscript` are missing.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError("export_onnx: needs the packages onnx and onnxscript; pip install onnx onnxscript") from error
    outputs = {"encoder": ["encoder_states", "embedded"], "decoder": ["emissions", "states"]}
    if model.length is not None:
        outputs["encoder"].append("length_logits")
    for name, program in export_programs(model).items():
        exported = torch.onnx.export(
            program, input_names=INPUTS[name], output_names=outputs[name], dynamo=True, verbose=False
        )
        if exported is None:
            raise ValueError(f"export_onnx: this torch ({torch.__version__}) gave no graph")
        write_atomic(folder / f"{name}.onnx", exported.model_proto.SerializeToString())
    crf = {} if model.crf is None else model.crf.state_dict()
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in crf.items()}
    write_atomic(folder / "crf.safetensors", safetensors.torch.save(tensors))
    settings = {"format": FORMAT, "config": dataclasses.asdict(model.config)}
    write_atomic(folder / "settings.json", json.dumps(settings, indent=1).encode())
