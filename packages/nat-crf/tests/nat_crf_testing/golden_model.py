"""`model_*.npz`: whole tiny models of the published code, with losses, gradients and decoding."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nat_crf.decoding import Sequences, best_sequences
from nat_crf.lengths import length_candidates, length_class
from nat_crf.models import Nat, input_tokens
from nat_crf.objective import ObjectiveConfig, translation_loss
from nat_crf.published import from_published, to_published
from nat_crf.sequences import BOS, EOS, PAD, UNK, length_mask
from nat_crf.transformer import Encoded
from nat_crf_testing.golden_file import GoldenFile, require

OUTPUT = {"rtol": 0.0, "atol": 1e-5}
LOSS = {"rtol": 1e-4, "atol": 1e-6}
OFFSETS = range(-2, 4)
GRADIENTS = (
    "encoder.embed_tokens.weight",
    "encoder.layers.0.self_attn.k_proj.weight",
    "encoder.layer_norm.weight",
    "encoder.layer_norm.bias",
    "decoder.embed_positions.weight",
    "decoder.layers.0.fc1.weight",
    "decoder.layers.1.encoder_attn.v_proj.weight",
    "decoder.layer_norm.weight",
    "decoder.layer_norm.bias",
    "crf_layer.E1.weight",
    "crf_layer.E2.weight",
)
_SETTINGS_OF_CRF = ("cfg_rank", "cfg_beam")


def check(path: Path) -> None:
    file = GoldenFile(path)
    model = _model(file)
    source, target = file.integers("src_tokens", "B", "S"), file.integers("target", "B", "T")
    _check_tokens(file, source, target)
    _check_losses(file, model, source, target)
    with torch.no_grad():
        _check_outputs(file, model, source, target)
        _check_decoding(file, model, source)
    file.finish()


def visible(key: str, arrays: dict[str, np.ndarray]) -> Sequence[int]:
    """Indices whose change must be reported: of weights the entry that matters most to the loss. Nothing of

    - the keys' biases: they add the same score to all keys of a query, which the softmax ignores;
    - rank and beam of a model without CRF.
    """
    value = arrays[key]
    if key.endswith("k_proj.bias") or (key in _SETTINGS_OF_CRF and "param/crf_layer.E1.weight" not in arrays):
        return []
    if not key.startswith("param/"):
        return sorted({0, value.size // 2, value.size - 1})
    return [int(_loss_gradients(arrays)[key.removeprefix("param/")].abs().argmax())]


def _loss_gradients(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Gradients of the loss for all weights of a file, computed once."""
    digest = hashlib.sha256(arrays["logits"].tobytes()).hexdigest()
    if digest not in _GRADIENTS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model_case.npz"
            np.savez(path, **arrays)
            file = GoldenFile(path)
        model = _model(file)
        source, target = (torch.from_numpy(arrays[name]) for name in ("src_tokens", "target"))
        translation_loss(model, source, target).total.backward()
        _GRADIENTS[digest] = _gradients(model)
    return _GRADIENTS[digest]


_GRADIENTS: dict[str, dict[str, Tensor]] = {}


def _model(file: GoldenFile) -> Nat:
    names = {"d_model": "d", "ffn": "ffn", "vocab": "V"}
    sizes = {size: file.whole(f"cfg_{name}") for name, size in names.items()}
    file.sizes |= sizes
    heads, layers, rank, beam = (file.whole(f"cfg_{name}") for name in ("heads", "layers", "rank", "beam"))
    symbols = [file.whole(f"cfg_{name}", 0) for name in ("bos", "pad", "eos", "unk")]
    require(symbols == [BOS, PAD, EOS, UNK], f"special symbols: {symbols}")
    pre_norm, copy = (file.whole(f"cfg_{name}", 0) for name in ("pre_norm", "src_embedding_copy"))
    require({pre_norm, copy} <= {0, 1}, "cfg_pre_norm, cfg_src_embedding_copy: not flags")
    state: dict[str, Tensor] = {}
    for name, value in file.arrays.items():
        if name.startswith("param/"):
            shape = value.shape
            state[name.removeprefix("param/")] = torch.from_numpy(file.array(name, "float32", *shape)).double()
    copying = {"decoder_input": "copy", "copy_from_edge": True} if copy else {}
    model = from_published(state, heads=heads, beam=beam, dropout=0.0, **copying)
    config = model.config
    require((config.dim, config.ffn_dim, model.target_vocab) == tuple(sizes.values()), f"sizes: {config}")
    require((config.encoder_layers, config.decoder_layers) == (layers, layers), f"cfg_layers: {config}")
    require(config.pre_norm == bool(pre_norm), "cfg_pre_norm: the weights say otherwise")
    require(model.crf is None or config.rank == rank, "cfg_rank: the weights say otherwise")
    exported = to_published(model)
    for name, value in state.items():
        rows = slice(1 if name.endswith("embed_positions.weight") else 0, None)
        require(torch.equal(exported[name][rows], value[rows]), f"{name}: import and export differ")
    return model


def _check_tokens(file: GoldenFile, source: Tensor, target: Tensor) -> None:
    for name, tokens in (("src_tokens", source), ("target", target)):
        require(int(tokens.min()) >= 0 and int(tokens.max()) < file.sizes["V"], f"{name}: outside the vocabulary")
        real = tokens != PAD
        words = real & (tokens != BOS) & (tokens != EOS)
        require(bool((words.sum(1) == real.sum(1) - 2).all()), f"{name}: not one bos and one eos a row")
    left = file.whole("cfg_left_pad_source", 0)
    require(left in (0, 1), "cfg_left_pad_source: not a flag")
    lengths = (source != PAD).sum(dim=1)
    mask = length_mask(lengths, source.shape[1])
    mask = mask.flip(1) if left else mask
    require(torch.equal(source != PAD, mask), "src_tokens: padding on the other side")
    require(torch.equal(target != PAD, length_mask((target != PAD).sum(1), target.shape[1])), "target: padding")
    first = mask.int().argmax(dim=1)
    rows = torch.arange(len(source))
    require(bool((source[rows, first] == BOS).all()), "src_tokens: no bos in front")
    require(bool((source[rows, first + lengths - 1] == EOS).all()), "src_tokens: no eos at the end")
    require(bool((target[:, 0] == BOS).all()), "target: no bos in front")
    file.equal("src_lengths", lengths, "B")
    file.equal("prev_target", input_tokens(target != PAD, UNK, bos=True), "B", "T")


def _check_losses(file: GoldenFile, model: Nat, source: Tensor, target: Tensor) -> None:
    weights = ObjectiveConfig(
        token_weight=file.number("cfg_word_ins_factor"),
        length_weight=file.number("cfg_length_factor"),
        label_smoothing=file.number("cfg_label_smoothing"),
    )
    losses = translation_loss(model, source, target, weights)
    file.close("loss_total", losses.total, **LOSS)
    file.close("loss_word_ins", losses.token, **LOSS)
    file.close("nll_loss", losses.nll, **LOSS)
    require(losses.length is not None, "loss_length: the model has no length classifier")
    assert losses.length is not None
    file.close("loss_length", losses.length, **LOSS)
    require((losses.crf is None) == ("loss_word_crf" not in file), "loss_word_crf: not what the weights say")
    if losses.crf is not None:
        file.close("loss_word_crf", losses.crf, **LOSS)
    losses.total.backward()
    own = _gradients(model)
    missing = [name for name in GRADIENTS if f"param/{name}" in file and f"grad/{name}" not in file]
    require(not missing, f"gradients missing: {missing}")
    for name, value in file.arrays.items():
        if name.startswith("grad/"):
            file.close(name, own[name.removeprefix("grad/")], *value.shape, **LOSS)


def _gradients(model: Nat) -> dict[str, Tensor]:
    """Gradients under the published names."""
    state = {name: parameter.grad for name, parameter in model.named_parameters(remove_duplicate=False)}
    twin = from_published(to_published(model), heads=model.config.heads)
    for name, parameter in twin.named_parameters(remove_duplicate=False):
        parameter.data = torch.zeros_like(parameter) if state[name] is None else state[name]
    return to_published(twin)


def _check_outputs(file: GoldenFile, model: Nat, source: Tensor, target: Tensor) -> None:
    encoded = model.encode(source)
    file.close("encoder_out", encoded.states, "B", "S", "d", **OUTPUT)
    logits = model.length_logits(encoded)
    assert logits is not None
    file.close("length_logits", logits, "B", 256, **OUTPUT)
    mask = target != PAD
    file.equal("length_target", length_class(mask.sum(1), encoded.mask.sum(1), 256), "B")
    emissions = model.emissions(model.decode_states(encoded, mask))
    file.close("logits", emissions, "B", "T", "V", **OUTPUT)


def _check_decoding(file: GoldenFile, model: Nat, source: Tensor) -> None:
    encoded = model.encode(source)
    logits = model.length_logits(encoded)
    assert logits is not None
    allowed = torch.full_like(logits, -1e4)
    classes = [128 + offset for offset in OFFSETS]
    allowed[:, classes] = logits[:, classes]
    centre = (allowed.argmax(dim=1) - 128 + encoded.mask.sum(dim=1)).clamp_min(2)
    for count, name in ((1, "init_tokens"), (3, "length_beam_init_tokens")):
        lengths = length_candidates(centre, count, minimum=2)
        mask = length_mask(lengths.flatten())
        file.equal(name, input_tokens(mask, UNK, bos=True), f"rows{count}", f"longest{count}")
        best = best_sequences(model, model.decode_states(encoded, mask), mask)
        _check_hypotheses(file, model, encoded, best, mask, count)


def _check_hypotheses(
    file: GoldenFile, model: Nat, encoded: Encoded, best: Sequences, mask: Tensor, count: int
) -> None:
    """The best of `count` lengths by unnormalised score per position, as published."""
    batch = len(encoded.mask)
    means = (best.score[:, 0] / mask.sum(dim=1)).view(batch, count)
    score, index = means.max(dim=1)
    rows = index + count * torch.arange(batch)
    file.close(f"hyp_score_lb{count}", score, "B", **OUTPUT)
    mask, tokens = mask[rows], best.tokens[rows, 0].masked_fill(~mask[rows], PAD)
    size = file.array(f"hyp_tokens_lb{count}", "int64", "B", f"size{count}").shape[1]
    longest = int(mask.sum(dim=1).max())
    require(size >= longest, f"hyp_tokens_lb{count}: shorter than ours")
    padded = torch.nn.functional.pad(tokens[:, :longest], (0, size - longest), value=PAD)
    file.equal(f"hyp_tokens_lb{count}", padded, "B", f"size{count}")
    # The decoder's n rows a source: the chosen length in each of them
    states = model.decode_states(encoded, mask.repeat_interleave(count, dim=0))[::count]
    steps = torch.zeros(batch, size, dtype=torch.float64)
    for row, (emissions, length) in enumerate(zip(model.emissions(states), mask.sum(dim=1).tolist(), strict=True)):
        real = emissions[:length]
        steps[row, :length] = _viterbi_steps(real, model) if model.crf else real.log_softmax(dim=-1).amax(dim=-1)
    file.close(f"hyp_pos_scores_lb{count}", steps, "B", f"size{count}", **OUTPUT)


def _viterbi_steps(emissions: Tensor, model: Nat) -> Tensor:
    """Increments of the running score as published `[T]`: read one position late, at the next label's candidate."""
    assert model.crf is not None
    scores, labels = emissions.topk(model.crf.beam)
    running, pointers = [scores[0]], []
    for step in range(1, len(labels)):
        block = model.crf.E1.weight[labels[step - 1]] @ model.crf.E2.weight[labels[step]].mT
        best, pointer = (running[-1][:, None] + block).max(dim=0)
        running.append(best + scores[step])
        pointers.append(pointer)
    slots = [int(running[-1].argmax())]
    for pointer in reversed(pointers):
        slots.insert(0, int(pointer[slots[0]]))
    late = [*slots[1:], slots[-1]]
    read = torch.stack([running[step][slot] for step, slot in enumerate(late)])
    return torch.diff(read, prepend=torch.zeros(1, dtype=read.dtype))
