"""Golden files `crf_*` (static) and `dcrf_*` (dynamic transitions), forward and backward, float64 and float32."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nat_crf.candidates import select_candidates
from nat_crf.crf import LowRankCRF
from nat_crf_testing.golden_file import GoldenFile, require

_FFN = {"W1": "f.0.weight", "b1": "f.0.bias", "W2": "f.2.weight", "b2": "f.2.bias"}


def visible(key: str, arrays: dict[str, np.ndarray]) -> Sequence[int]:
    """Entries of which a change must be reported.

    Inputs at padding change nothing, nor do emissions of labels in no list, rows of E1 of labels without an
    outgoing edge, or hidden units that are off: where an input has a gradient, the entry with the largest one counts.
    With one candidate nothing has a gradient, and E1 and E2 are seen through the gold score alone.
    """
    value = arrays[key]
    if f"grad_{key}" in arrays:
        gradient = np.abs(arrays[f"grad_{key}"])
        if arrays["beam"] > 1:
            return [int(gradient.argmax())]
        gold = int(arrays["targets"][0, 1 if key == "E2" else 0])
        return [int(np.ravel_multi_index((0, 0, gold) if key == "emissions" else (gold, 0), value.shape))]
    if key in ("viterbi_tokens", "viterbi1_tokens", "targets"):
        # The second position of the first sentence is real in all files
        return [1]
    if key == "log_likelihood_f32lse":
        # Its tolerance is wider than the change of an entry much smaller than the largest
        return [int(np.abs(value).argmax())]
    return sorted({0, value.size // 2, value.size - 1})


def check(path: Path) -> None:
    """Raise GoldenError unless every array of the file is documented and right."""
    file = GoldenFile(path)
    dynamic = path.name.startswith("dcrf_")
    tolerance = {"rtol": 1e-9 if "bigscore" in path.name else 1e-10, "atol": 1e-10}
    beam, parameters = file.whole("beam"), _parameters(file, dynamic)
    emissions, targets, mask = _inputs(file)
    states = file.floats("hidden", "B", "T", "d").requires_grad_() if dynamic else None
    crf = _layer(file, parameters, beam, states)
    require(file.whole("low_rank") == crf.rank, "low_rank: not the rank of E1")
    if dynamic:
        file.close("dynamic", crf.f(states), "B", "T-1", "r", "r", **tolerance)
    if not dynamic or "topk_tokens" in file:
        _check_candidates(file, emissions, targets, mask, beam)
    _check_training(file, crf, emissions, targets, mask, states, tolerance)
    _check_decoding(file, crf, emissions, mask, states, tolerance)
    _check_float32(file, crf, emissions, targets, mask, states)
    file.finish()


def _parameters(file: GoldenFile, dynamic: bool) -> dict[str, Tensor]:
    parameters = {f"{name}.weight": file.floats(name, "V", "r") for name in ("E1", "E2")}
    if dynamic:
        rank = file.sizes["r"]
        shapes = {"W1": ("h", "2d"), "b1": ("h",), "W2": (rank**2, "h"), "b2": (rank**2,)}
        parameters |= {_FFN[name]: file.floats(name, *shape) for name, shape in shapes.items()}
    return parameters


def _inputs(file: GoldenFile) -> tuple[Tensor, Tensor, Tensor]:
    emissions = file.floats("emissions", "B", "T", "V").requires_grad_()
    targets, mask = file.integers("targets", "B", "T"), file.booleans("mask", "B", "T")
    require(file.whole("beam") <= file.sizes["V"], "beam: above V, which the reference cannot do")
    file.sizes["T-1"] = file.sizes["T"] - 1
    require(bool(((targets >= 0) & (targets < file.sizes["V"])).all()), "targets: outside the vocabulary")
    lengths = file.integers("lengths", "B")
    require(bool((lengths >= 2).all()), "lengths: below 2")
    require(torch.equal(mask, torch.arange(mask.shape[1]) < lengths[:, None]), "mask: not that of the lengths")
    return emissions, targets, mask


def _layer(file: GoldenFile, parameters: dict[str, Tensor], beam: int, states: Tensor | None) -> LowRankCRF:
    vocab, rank = parameters["E1.weight"].shape
    hidden = file.sizes.get("h")
    crf = LowRankCRF(
        vocab, rank, beam=beam, state_dim=None if states is None else states.shape[2], hidden_dim=hidden
    ).double()
    crf.load_state_dict(parameters)
    return crf


def _check_candidates(file: GoldenFile, emissions: Tensor, targets: Tensor, mask: Tensor, beam: int) -> None:
    shape = ("B", "T", beam)
    file.equal("topk_tokens", select_candidates(emissions, beam).labels, *shape)
    labels, _, gold = select_candidates(emissions, beam, targets)
    require(gold is not None and torch.equal(labels.gather(2, gold[..., None])[..., 0], targets), "gold: misplaced")
    file.equal("topk_tokens_train_sorted", labels.sort(dim=2).values, *shape)


def _check_training(
    file: GoldenFile,
    crf: LowRankCRF,
    emissions: Tensor,
    targets: Tensor,
    mask: Tensor,
    states: Tensor | None,
    tolerance: dict[str, float],
) -> None:
    forced = select_candidates(emissions, crf.beam, targets)
    log_z = crf.log_partition(forced, mask, states)
    if crf.beam > 1:
        log_likelihood = crf.log_likelihood(emissions, targets, mask, states)
    else:
        # Refused in training: log Z is the gold score, whatever the parameters
        log_likelihood = crf.log_partition(forced, mask, states) - log_z
    file.close("log_likelihood", log_likelihood, "B", **tolerance)
    if states is None or "log_z_train" in file:
        file.close("log_z_train", log_z, "B", **tolerance)
    if states is None or "gold_score" in file:
        # log Z over lists of one label, the gold one
        gold_score = crf.log_partition(select_candidates(emissions, 1, targets), mask, states)
        file.close("gold_score", gold_score, "B", **tolerance)
    file.close("log_z_free", crf.log_partition(emissions, mask, states), "B", **tolerance)
    loss = -(log_likelihood / mask.sum(dim=1)).mean()
    file.close("loss", loss, **tolerance)
    inputs = {"emissions": emissions, "E1": crf.E1.weight, "E2": crf.E2.weight}
    if states is not None:
        inputs |= {"hidden": states} | {name: crf.get_parameter(path) for name, path in _FFN.items()}
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    for (name, value), gradient in zip(inputs.items(), gradients, strict=True):
        file.close(f"grad_{name}", gradient, *value.shape, **tolerance)


def _check_decoding(
    file: GoldenFile,
    crf: LowRankCRF,
    emissions: Tensor,
    mask: Tensor,
    states: Tensor | None,
    tolerance: dict[str, float],
) -> None:
    decoded = crf.decode(emissions, mask, states, published_steps=True)
    file.equal("viterbi_tokens", decoded.tokens, "B", "T", where=mask)
    file.close("viterbi_score", decoded.score, "B", **tolerance)
    path = crf.decode(emissions, mask, states).step_scores
    require(torch.allclose(path.sum(dim=1), decoded.score, rtol=1e-10, atol=1e-10), "step scores: not the score")
    if states is None or "viterbi_step_scores" in file:
        file.close("viterbi_step_scores", decoded.step_scores, "B", "T", **tolerance)
    if states is None or "viterbi1_tokens" in file:
        single = crf.decode(emissions, mask, states, beam=1)
        file.equal("viterbi1_tokens", single.tokens, "B", "T", where=mask)
        file.close("viterbi1_score", single.score, "B", **tolerance)


def _check_float32(
    file: GoldenFile, crf: LowRankCRF, emissions: Tensor, targets: Tensor, mask: Tensor, states: Tensor | None
) -> None:
    """The same in float32, within the tolerance for that; and the unmodified reference's float32 log-sum-exp."""
    crf = crf.float()
    if crf.beam > 1:
        single = emissions.detach().float(), targets, mask, None if states is None else states.detach().float()
        file.close("log_likelihood", crf.log_likelihood(*single), "B", rtol=2e-5, atol=1e-4)
    if states is None or "log_likelihood_f32lse" in file:
        exact = file.floats("log_likelihood", "B")
        # The reference subtracts a float32 log Z from the gold score: its error is relative to those
        size = float(file.floats("log_z_free", "B").abs().max())
        file.close("log_likelihood_f32lse", exact, "B", rtol=0.0, atol=1e-5 * max(size, 1.0))
