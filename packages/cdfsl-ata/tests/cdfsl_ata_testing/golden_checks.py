"""Golden vectors of the published implementation: which function checks which file, and the functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cdfsl_ata.augmentation import AdversarialTaskAugmenter
from cdfsl_ata.discrepancy import mmd
from cdfsl_ata.encoders import ConvNet, FeatureWiseTransform, ResidualBlock, ResNet
from cdfsl_ata.finetuning import fine_tune_episodes, fine_tune_linear, gamma_correction, pseudo_set
from cdfsl_ata.gnn import Gnn
from cdfsl_ata.learners import MatchingNet, ProtoNet, RelationNet
from cdfsl_ata.lrp import explain_gnn, explain_relation
from cdfsl_ata.random_convolution import convolve_task
from cdfsl_ata.tpn import ScaleNetwork, Tpn
from cdfsl_ata.transforms import centred_pixels, colour_jitter, mean_and_half_width
from cdfsl_ata_testing.golden_case import (
    ASCENT_RTOL,
    RTOL,
    Case,
    check_head,
    gradients,
    load,
    recipe,
    recipe_input,
    small_encoder,
    small_learner,
)
from cdfsl_ata_testing.golden_file import require


def check_protonet(case: Case) -> None:
    _, shots, _, _ = case.numbers("cfg")
    check_head(case, ProtoNet(nn.Identity(), shots))


def check_matchingnet(case: Case) -> None:
    _, shots, _, dim = case.numbers("cfg")
    learner = MatchingNet(nn.Identity(), shots, dim)
    load(learner, case.under("p/"))
    x = check_head(case, learner, "logprobs")
    context = learner.encode_support(x[:, :shots].flatten(0, 1))
    case.close("G", context)
    case.close("G_normalized", context / (context.norm(dim=1, keepdim=True) + 1e-5))


def check_relationnet(case: Case) -> None:
    _, shots, _, channels, size = case.numbers("cfg")
    objective = case.text("loss_type")
    require(objective in ("mse", "softmax"), f"loss_type {objective}")
    learner = RelationNet(nn.Identity(), shots, channels, size, objective)  # pyright: ignore[reportArgumentType]
    load(learner, case.under("p/"))
    x = check_head(case, learner)
    case.close("scores_eval", learner.eval().scores(x))


def check_gnn_small(case: Case) -> None:
    way, shots, _, dim, embedding, width = case.numbers("cfg")
    learner = Gnn(nn.Identity(), shots, way, dim, embedding, width)
    load(learner, case.under("p/"))
    check_head(case, learner)


def check_gnn_full(case: Case) -> None:
    way, shots, queries = case.numbers("cfg")[:3]
    learner = Gnn(nn.Identity(), shots, way)
    load(learner, recipe(case))
    scores = learner.scores(recipe_input(case, way, shots + queries, 512))
    case.close("scores", scores)
    case.close("loss", learner.loss(scores))


def check_tpn_propagation(case: Case) -> None:
    way, shots, _, channels = case.numbers("cfg")
    learner = Tpn(nn.Identity(), shots, channels).double()
    x, sigma = (case.tensor(key).requires_grad_() for key in ("x", "sigma"))
    scores = learner.diffuse(learner.ordered(x), sigma, way)
    loss = learner.loss(scores)
    loss.backward()
    case.close("scores", scores)
    case.close("loss", loss)
    for key, value in (("grad_x", x), ("grad_sigma", sigma)):
        assert value.grad is not None
        case.close(key, value.grad)


def check_tpn_relation_full(case: Case) -> None:
    network = ScaleNetwork()
    load(network, recipe(case))
    x = recipe_input(case, int(case.raw("n")), 512, 7, 7)
    case.close("out_eval", network.eval()(x))
    case.close("out_train", network.train()(x))
    for layer in (network.layer1, network.layer2):
        name = "layer1" if layer is network.layer1 else "layer2"
        norm = layer[1]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        case.close(f"rm_{name}_after", norm.running_mean)
        case.close(f"rv_{name}_after", norm.running_var)


def check_tpn_full(case: Case) -> None:
    way, shots, queries, channels = case.numbers("cfg")
    learner = Tpn(nn.Identity(), shots, channels)
    load(learner, recipe(case))
    x = recipe_input(case, way, shots + queries, channels, 7, 7)
    for mode in ("eval", "train"):
        scores = learner.train(mode == "train").scores(x)
        case.close(f"scores_{mode}", scores)
        case.close(f"loss_{mode}", learner.loss(scores))


def check_simpleblock(case: Case) -> None:
    width_in, width_out, halved, leaky, _, _ = case.numbers("cfg")
    block = ResidualBlock(width_in, width_out, 2 if halved else 1, leaky=bool(leaky))
    load(block, case.under("p/"))
    for mode in ("eval", "train"):
        x = case.tensor("x").requires_grad_()
        block.zero_grad()
        out = block.train(mode == "train")(x)
        out.square().sum().backward()
        assert x.grad is not None
        case.close(f"out_{mode}", out)
        case.close(f"grad_x_{mode}", x.grad)
    gradients(case, block)
    for key in [key for key in case.arrays if key.startswith("after/")]:
        case.close(key, block.state_dict()[key.removeprefix("after/")])


def check_resnet_full(case: Case) -> None:
    model = ResNet(case.text("arch"))
    load(model, recipe(case))
    require(sum(value.numel() for value in model.parameters()) == int(case.raw("n_params")), "n_params")
    x = recipe_input(case, int(case.raw("n")), 3, 224, 224)
    case.close("out_eval", model.eval()(x))
    case.close("out_train", model.train()(x))
    model.flatten = False
    case.close("map_after_train_eval_c0", model.eval()(x)[:, :4])


def check_convnet_full(case: Case) -> None:
    depth = int(re.fullmatch(r"Conv(\d)", case.text("arch"))[1])  # pyright: ignore[reportOptionalSubscript]
    x = recipe_input(case, 2, 3, 84, 84)
    case.close("out_eval", load(ConvNet(depth), recipe(case)).eval()(x))
    maps = load(ConvNet(depth, maps=True), recipe(case, "np_")).eval()(x)
    case.close("np_out_mean", maps.mean(dim=(2, 3)))
    case.close("np_out_corner", maps[:, :, :3, :3])


def check_fwt_layer(case: Case) -> None:
    _, channels, _ = case.numbers("cfg")
    layer = FeatureWiseTransform(channels).double()
    fresh = FeatureWiseTransform(channels)
    case.close("init_gamma", fresh.gamma.double(), atol=1e-6)
    case.close("init_beta", fresh.beta.double(), atol=1e-6)
    state = case.under("p/")
    load(layer, state)
    x = case.tensor("x").requires_grad_()
    case.close("out_eval", layer.eval()(x))
    out = layer.transform(
        nn.BatchNorm2d.forward(layer.train(), x), case.tensor("noise_gamma"), case.tensor("noise_beta")
    )
    out.square().sum().backward()
    assert x.grad is not None
    case.close("out_train", out)
    case.close("grad_x", x.grad)
    gradients(case, layer)
    for key in [key for key in case.arrays if key.startswith("after/")]:
        case.close(key, layer.state_dict()[key.removeprefix("after/")])


def check_random_conv(case: Case) -> None:
    weight = case.tensor("weight")
    require(weight.shape[-1] == int(case.raw("k")), "k")
    case.close("out", convolve_task(case.tensor("x"), weight))


def check_mmd(case: Case) -> None:
    source = case.tensor("source").requires_grad_()
    value = mmd(source, case.tensor("target"))
    value.backward()
    assert source.grad is not None
    case.close("mmd", value)
    case.close("grad_source", source.grad)


def check_ata_inner(case: Case) -> None:
    way, shots, _, channels, size, steps = case.numbers("cfg")
    learner = small_learner(case.text("head"), way, shots, channels, size)
    load(learner, case.under("p/"))
    augmenter = AdversarialTaskAugmenter(learner, steps, float(case.tensor("lr")), 1.0, warn_rms=1e9)
    task = augmenter(case.tensor("x"), measure=True)
    case.close("x_hat", task.images)
    case.close("losses", task.losses)
    assert task.loss_after is not None
    case.close("loss_after", task.loss_after)


def check_ata_regularised(case: Case) -> None:
    way, shots, _, channels, size, steps = case.numbers("cfg")
    learner = small_learner("proto", way, shots, channels, size)
    load(learner, case.under("p/"))
    kind = case.text("kind")
    require(kind in ("euclid", "mmd"), f"kind {kind}")
    augmenter = AdversarialTaskAugmenter(
        learner, steps, float(case.tensor("lr")), 1.0, regulariser=kind, weight=float(case.tensor("lamb")), warn_rms=1e9
    )  # pyright: ignore[reportArgumentType]
    case.close("x_hat", augmenter(case.tensor("x")).images)


def after_step(case: Case, learner: nn.Module, step: str, small: set[str]) -> None:
    """Weights after an optimiser's step, but those whose gradients are rounding errors, which Adam blows up."""
    state = learner.state_dict()
    for key in [key for key in case.arrays if key.startswith(step)]:
        name = key.removeprefix(step)
        if name in small:
            case.tensor(key)
        else:
            case.close(key, state[name])


def check_ata_train_step(case: Case) -> None:
    way, shots, _, channels, size, steps = case.numbers("cfg")
    learner = small_learner(case.text("head"), way, shots, channels, size)
    load(learner, case.under("p/"))
    augmenter = AdversarialTaskAugmenter(learner, steps, float(case.tensor("lr")), 1.0, warn_rms=1e9)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    small: set[str] = set()
    learner.train()
    for step in ("s0/", "s1/"):
        x = case.tensor(f"{step}x")
        if f"{step}conv_weight" in case.arrays:
            x = convolve_task(x, case.tensor(f"{step}conv_weight"))
        task = augmenter(x)
        case.close(f"{step}x_hat", task.images)
        loss = learner(task.images)
        optimizer.zero_grad()
        loss.backward()
        case.close(f"{step}loss", loss)
        gradients(case, learner, f"{step}g/")
        small |= {
            name
            for name, value in learner.named_parameters()
            if value.grad is not None and value.grad.abs().max() < 1e-10
        }
        optimizer.step()
        after_step(case, learner, f"{step}after/", small)


def check_lrp_gnn(case: Case) -> None:
    way, shots, _, dim = case.numbers("cfg")
    learner = Gnn(nn.Identity(), shots, way, dim)
    load(learner, recipe(case))
    x = case.tensor("x").requires_grad_()
    found = explain_gnn(learner.train(), x)
    found.loss.backward()
    for key, value in (("scores", found.scores), ("scores_lrp", found.weighted_scores), ("loss", found.loss)):
        case.close(key, value)
    case.close("relevance_weight", found.weight)
    fc = learner.fc[0]
    assert isinstance(fc, nn.Linear)
    assert fc.weight.grad is not None
    assert x.grad is not None
    case.close("grad_x", x.grad)
    case.close("grad_fc_weight", fc.weight.grad)


def check_lrp_relation(case: Case) -> None:
    _, shots, _, channels = case.numbers("cfg")
    learner = RelationNet(nn.Identity(), shots, channels, 7)
    load(learner, case.under("p/"))
    x = case.tensor("x").requires_grad_()
    found = explain_relation(learner.train(), x)
    found.loss.backward()
    assert x.grad is not None
    case.close("relations", found.scores)
    case.close("relations_lrp", found.weighted_scores)
    case.close("relevance_weight", found.weight)
    case.close("loss", found.loss)
    case.close("grad_x", x.grad)
    gradients(case, learner)


def check_psg(case: Case) -> None:
    way, shots, pseudo = case.numbers("cfg")
    support = 10.0 * torch.arange(way * shots, dtype=torch.float64).view(way, shots, 1, 1, 1)
    calls = 0

    def augment(image: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return image + 0.001 * (calls - case.first)  # pyright: ignore[reportAttributeAccessIssue]

    told = case.tensor("set")
    # The running number may count from 0 or from 1; the first copy says which
    case.first = 1 if float(told[0, 1]) == 0 else 0  # pyright: ignore[reportAttributeAccessIssue]
    case.close("set", pseudo_set(support, pseudo, augment)[..., 0, 0, 0])


def check_gamma(case: Case) -> None:
    case.close("out", gamma_correction(case.tensor("x"), float(case.tensor("g"))))


def check_finetune_steps(case: Case) -> None:
    if case.name.startswith("lin"):
        first = case.tensor("p/0.trunk.0.weight")
        model = nn.Sequential(small_encoder(len(first), pooled=True), nn.Linear(*case.tensor("p/1.weight").shape[::-1]))
        load(model, case.under("p/"))
        steps = sorted({key.split("/")[0] for key in case.arrays if re.match(r"s\d+/", key)})
        batches = [(case.tensor(f"{step}/x"), torch.from_numpy(case.raw(f"{step}/y").copy())) for step in steps]
        for step, loss in zip(steps, fine_tune_linear(model, batches), strict=True):
            case.close(f"{step}/loss", loss)
        after_step(case, model, "after/", set())
        case.close("scores_test_eval", model.eval()(case.tensor("x_test")))
        return
    way, shots, _, channels, size = case.numbers("cfg")
    learner = small_learner(case.text("head"), way, shots, channels, size)
    load(learner, case.under("p/"))
    steps = sorted({key.split("/")[0] for key in case.arrays if re.match(r"s\d+/", key)})
    losses = fine_tune_episodes(learner, [case.tensor(f"{step}/x") for step in steps])
    for step, loss in zip(steps, losses, strict=True):
        case.close(f"{step}/loss", loss)
    # Biases in front of a normalisation by batch statistics have no gradient but rounding
    small = {name for name, _ in learner.named_parameters() if re.fullmatch(r".*layer\d\.C\.bias|fc\.0\.bias", name)}
    # Testing in training mode moves the running statistics once more
    case.close("scores_test_trainmode", learner.scores(case.tensor("x_test")))
    after_step(case, learner, "after/", small)


def check_transforms(case: Case) -> None:
    if case.name == "jitter":
        out = colour_jitter(Image.fromarray(case.raw("image")), case.numbers("u"))
        require(int(np.abs(np.asarray(out).astype(int) - case.raw("out").astype(int)).max()) <= 1, "jitter")
    elif case.name == "test":
        out = centred_pixels(Image.fromarray(case.raw("image")), int(case.raw("size"))).numpy()
        require(out.shape == case.raw("out").shape, "test: shape")
        require(float(np.abs(out - case.raw("out")).max()) <= 1.01 / 255 / 0.224, "test")
    else:
        mean, half = mean_and_half_width(case.tensor("acc"))
        case.close("mean", torch.tensor(mean, dtype=torch.float64))
        case.close("half_width", torch.tensor(half, dtype=torch.float64))


CHECKS: dict[str, Callable[[Case], None]] = {
    "protonet": check_protonet,
    "matchingnet": check_matchingnet,
    "relationnet": check_relationnet,
    "gnn_small": check_gnn_small,
    "gnn_full": check_gnn_full,
    "tpn_propagation": check_tpn_propagation,
    "tpn_relation_full": check_tpn_relation_full,
    "tpn_full": check_tpn_full,
    "simpleblock": check_simpleblock,
    "resnet_full": check_resnet_full,
    "convnet_full": check_convnet_full,
    "fwt_layer": check_fwt_layer,
    "random_conv": check_random_conv,
    "mmd": check_mmd,
    "ata_inner": check_ata_inner,
    "ata_regularised": check_ata_regularised,
    "ata_train_step": check_ata_train_step,
    "lrp_gnn": check_lrp_gnn,
    "lrp_relation": check_lrp_relation,
    "finetune_steps": check_finetune_steps,
    "transforms_ci": check_transforms,
}
LOOSER = ("ata_", "lrp_", "finetune_")
WHOLE = ("ata_train_step", "gnn_full", "tpn_relation_full", "tpn_full", "resnet_full", "convnet_full", "lrp_gnn")


def golden_files(folder: Path) -> list[Path]:
    """Everything in a folder but its README."""
    return sorted(path for path in folder.iterdir() if path.name != "README.md")


def check_file(path: Path) -> None:
    """Raise GoldenError unless every array of the file is documented and what this package computes."""
    kinds = [name for name in (*CHECKS, "finetune_psg") if path.name.startswith(name)]
    require(len(kinds) == 1 and path.suffix == ".npz", f"{path.name}: not a golden file this contract knows")
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    require(bool(arrays), f"{path.name}: empty")
    rtol = ASCENT_RTOL if path.name.startswith(LOOSER) else RTOL
    cases: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        name, _, rest = ("", "", key) if kinds[0] in WHOLE else key.partition("/")
        cases.setdefault(name, {})[rest] = value
    for name, values in cases.items():
        case = Case(name or kinds[0], values, rtol)
        check = CHECKS.get(kinds[0]) or (check_gamma if name.startswith("gamma") else check_psg)
        check(case)
        case.finish()
