"""Golden vectors of the published implementation: which function checks which file, and the functions."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from infocl.detection_export import detectron2_name
from infocl.lars import Lars
from infocl.losses import barlow_twins, byol_loss, byol_regression, nt_xent
from infocl.methods import BarlowTwins, Byol, Method, SimClr, Supervised, target_momentum
from infocl.networks import Decoder, Encoder
from infocl.preprocessing import centred_pixels, pixels
from infocl.probes import cosine_rate, linear_probe, step_rate
from infocl.regularisers import LowerBoundRegularizer, lower_bound
from infocl.splits import first_seen, split_by_class
from infocl.theory import (
    bayes_error,
    co_information,
    error_bound,
    joint_entropy,
    mutual_information,
    with_representation,
)


class GoldenError(AssertionError):
    """A golden file does not agree with its documentation or with this package."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise GoldenError(message)


class Arrays:
    """Arrays of a file, every one of which has to be looked at."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as archive:
            self.arrays = {name: archive[name] for name in archive.files}
        self.name, self.taken = path.name, set[str]()

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def raw(self, key: str) -> np.ndarray:
        require(key in self.arrays, f"{self.name}: documented array {key!r} is missing")
        self.taken.add(key)
        return self.arrays[key]

    def tensor(self, key: str) -> Tensor:
        value = torch.from_numpy(self.raw(key).copy())
        return value.double() if value.is_floating_point() else value

    def number(self, key: str) -> Any:
        return self.raw(key).item()

    def numbers(self, key: str) -> list[Any]:
        return self.raw(key).tolist()

    def images(self, key: str = "x_uint8") -> Tensor:
        return (self.tensor(key).double() / 255 - 0.5) / 0.5

    def close(self, key: str, ours: Tensor | float, rtol: float, atol: float = 0.0) -> None:
        theirs = self.tensor(key)
        ours = torch.as_tensor(ours, dtype=torch.float64).detach()
        require(list(theirs.shape) == list(ours.shape), f"{key}: {list(theirs.shape)}, ours {list(ours.shape)}")
        require(bool(theirs.isfinite().all() and ours.isfinite().all()), f"{self.name}/{key}: not finite")
        excess = (theirs - ours).abs() - atol - rtol * theirs.abs()
        require(
            theirs.numel() == 0 or float(excess.max()) <= 0, f"{self.name}/{key}: over by {float(excess.max()):.3g}"
        )

    def equal(self, key: str, ours: Any) -> None:
        require(np.array_equal(self.raw(key), np.asarray(ours)), f"{self.name}/{key}: differs")

    def finish(self) -> None:
        extra = sorted(set(self.arrays) - self.taken)
        require(not extra, f"{self.name}: undocumented arrays {extra[:5]}")


def uniform(name: str, count: int) -> np.ndarray:
    """The fill rule's u in [0, 1)."""
    x = (np.arange(count, dtype=np.uint64) * 2654435761 + zlib.crc32(name.encode())) & 0xFFFFFFFF
    for _ in range(2):
        x = ((x ^ (x >> np.uint64(16))) * 0x45D9F3B) & 0xFFFFFFFF
    return (x ^ (x >> np.uint64(16))).astype(np.float64) / 2**32


def filled(name: str, shape: torch.Size) -> Tensor:
    u = uniform(name, math.prod(shape)).reshape(tuple(shape))
    leaf = name.rpartition(".")[2]
    if leaf == "weight" and len(shape) >= 2:
        value = (2 * u - 1) * math.sqrt(6 / math.prod(shape[1:]))
    elif leaf in ("weight", "running_var"):
        value = 0.5 + u
    else:
        value = 0.2 * (u - 0.5)
    return torch.from_numpy(value)


@torch.no_grad()
def fill(model: nn.Module, prefix: str = "") -> None:
    """All parameters and statistics by the rule, in float64; a BYOL target's parameters as the online network's."""
    model.double()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("num_batches_tracked"):
            continue
        if name.startswith("target_"):
            if "running" in name:
                value.fill_(float(name.endswith("running_var")))
                continue
            name = name.removeprefix("target_")
        value.copy_(filled(prefix + name, value.shape))


def norms(arrays: Arrays, key: str, names: list[str], values: dict[str, Tensor | None], **tolerance: float) -> None:
    given = [values[name] for name in names]
    found = [0.0 if value is None else float(value.detach().norm()) for value in given]
    arrays.close(key, torch.tensor(found, dtype=torch.float64), **tolerance)


def check_ntxent(arrays: Arrays) -> None:
    check_views(arrays, lambda i, j: nt_xent(i, j, arrays.number("temperature")), 1e-11)


def check_barlow(arrays: Arrays) -> None:
    check_views(arrays, lambda i, j: barlow_twins(i, j, arrays.number("beta")), 1e-10)


def check_views(arrays: Arrays, function: Callable[[Tensor, Tensor], Tensor], atol: float) -> None:
    z = {key: arrays.tensor(key).requires_grad_() for key in ("z_i", "z_j")}
    loss = function(z["z_i"], z["z_j"])
    loss.backward()
    arrays.close("loss", loss, 1e-9, atol)
    for key, value in z.items():
        assert value.grad is not None
        arrays.close(f"grad_{key}", value.grad, 1e-9, atol)


def check_lbe(arrays: Arrays) -> None:
    rho = arrays.number("rho")
    mu, z = (arrays.tensor(key).requires_grad_() for key in ("mu", "z"))
    bound = lower_bound(z, mu, rho)
    bound.backward()
    arrays.close("bound", bound, 1e-9, 1e-11)
    noise = z.detach() - mu.detach()
    leaf = mu.detach().clone().requires_grad_()
    lower_bound(leaf + noise, leaf, rho).backward()
    for key, value in (("grad_mu", mu), ("grad_z", z), ("grad_mu_reparam", leaf)):
        assert value.grad is not None
        arrays.close(key, value.grad, 1e-9, 1e-11)


def check_byol(arrays: Arrays) -> None:
    pred = {key: arrays.tensor(key).requires_grad_() for key in ("pred_i", "pred_j")}
    target = {key: arrays.tensor(key) for key in ("tar_i", "tar_j")}
    arrays.close("per_sample_i", byol_regression(pred["pred_i"], target["tar_j"]), 1e-9)
    arrays.close("per_sample_j", byol_regression(pred["pred_j"], target["tar_i"]), 1e-9)
    loss = byol_loss(*pred.values(), *target.values())
    loss.backward()
    arrays.close("loss", loss, 1e-9)
    for key, value in pred.items():
        assert value.grad is not None
        arrays.close(f"grad_{key}", value.grad, 1e-9, 1e-12)


def check_decoder(arrays: Arrays) -> None:
    size = int(re.findall(r"\d+", arrays.name)[0])
    h = arrays.tensor("h").requires_grad_()
    model = Decoder(h.shape[1], size)
    fill(model, "decoder.")
    stride = arrays.number("stride")
    arrays.close("out_eval", model.eval()(h)[:, :, ::stride, ::stride], 1e-8, 1e-9)
    out = model.train()(h)
    arrays.close("out_train", out[:, :, ::stride, ::stride], 1e-8, 1e-9)
    arrays.close("out_train_sum", out.sum(), 1e-8)
    arrays.close("out_train_sumsq", out.square().sum(), 1e-8)
    arrays.equal("out_shape", out.shape)
    target = torch.from_numpy(2 * uniform("target", out.numel()) - 1).view(out.shape)
    mse = F.mse_loss(out, target)
    mse.backward()
    assert h.grad is not None
    arrays.close("mse", mse, 1e-8)
    arrays.close("grad_h", h.grad, 1e-8, 1e-10)
    shapes(arrays, dict(model.named_parameters(prefix="decoder")))


def shapes(arrays: Arrays, own: dict[str, nn.Parameter]) -> None:
    """Names, shapes, their number, and gradients' norms."""
    names = arrays.numbers("param_names")
    require(set(names) == set(own), f"{arrays.name}: names {sorted(set(names) ^ set(own))[:3]}")
    require(json.loads(str(arrays.raw("param_shapes"))) == [list(own[name].shape) for name in names], "param_shapes")
    require(sum(value.numel() for value in own.values()) == arrays.number("n_params"), "n_params")
    norms(arrays, "param_grad_norms", names, {name: value.grad for name, value in own.items()}, rtol=1e-7, atol=1e-9)


def check_backbone(arrays: Arrays) -> None:
    found = re.fullmatch(r"backbone_(resnet\d+)_(\w+)\.npz", arrays.name)
    require(found is not None, arrays.name)
    assert found is not None
    stem: Any = {"stl": "stl10"}.get(found[2], found[2])
    model = Encoder(found[1], stem)
    fill(model, "encoder.")
    x = arrays.images().requires_grad_()
    for stage, out in enumerate(model.eval()(x), start=2):
        arrays.close(f"eval{stage}", out, 1e-7, 1e-9)
    outputs = model.train()(x)
    loss = torch.zeros((), dtype=torch.float64)
    for stage, out in enumerate(outputs, start=2):
        arrays.close(f"train{stage}", out, 1e-7, 1e-9)
        loss = loss + (out * torch.from_numpy(uniform(f"cot{stage - 2}", out.numel()) - 0.5).view(out.shape)).sum()
    loss.backward()
    assert x.grad is not None
    arrays.close("loss", loss, 1e-7)
    arrays.close("grad_x_norm", x.grad.norm(), 1e-7)
    arrays.close("grad_x0", x.grad[0, :, :8, :8], 1e-7, 1e-8)
    for name in ("running_mean", "running_var"):
        arrays.close(f"bn1_{name}", getattr(model.bn1, name), 1e-7, 1e-10)
    shapes(arrays, dict(model.named_parameters(prefix="encoder")))


def make_method(arrays: Arrays) -> Method:
    """The model of a step file, by its name: step_<base>_<regulariser>[_<stem>].npz."""
    base, kind, *rest = arrays.name.removesuffix(".npz").split("_")[1:]
    stem = rest[0].removesuffix("10") if rest else "cifar"
    regulariser = {"orig": "none"}.get(kind, kind)
    encoder = Encoder("resnet18", "stl10" if stem.startswith("stl") else "cifar")
    kwargs: dict[str, Any] = {
        "regulariser": regulariser, "weight": arrays.number("lamb"),
        "lower_bound": LowerBoundRegularizer(arrays.number("zeta")),
    }  # fmt: skip
    if regulariser == "rc":
        kwargs["decoder"] = Decoder(512, arrays.raw("x_uint8").shape[-1])
    if base == "simclr":
        return SimClr(encoder, 512, temperature=arrays.number("temperature"), **kwargs)
    if base == "barlow":
        return BarlowTwins(
            encoder, 512, out=arrays.number("projection_dim"), off_diagonal=arrays.number("beta"), **kwargs
        )
    if base == "byol":
        return Byol(encoder, 512, **kwargs)
    require(base == "supervised", arrays.name)
    return Supervised(encoder, 512, arrays.number("n_classes"), **kwargs)


def step_noise(arrays: Arrays, step: int, views: tuple[str, ...]) -> list[list[Tensor]] | None:
    """What is added to each stage of each view; zeros where a stage has none."""
    if not any(key.startswith("noise") for key in arrays.arrays):
        return None
    noise = []
    for view in views:
        last = arrays.tensor(f"noise4{view}")[step]
        stages = [arrays.tensor(f"noise{s}{view}")[step] if f"noise{s}{view}" in arrays else None for s in (2, 3)]
        widths = (128, 256)
        noise.append(
            [last.new_zeros(len(last), w) if n is None else n for n, w in zip(stages, widths, strict=True)] + [last]
        )
    return noise


def check_step(arrays: Arrays) -> None:
    model = make_method(arrays)
    fill(model)
    model.train()
    x, names = arrays.images(), arrays.numbers("param_names")
    own = {name: value for name, value in model.named_parameters() if not name.startswith("target_")}
    require(set(names) == set(own), f"{arrays.name}: names {sorted(set(names) ^ set(own))[:3]}")
    optimizer = torch.optim.Adam(own.values(), lr=arrays.number("lr"))
    losses = []
    for step in range(len(x)):
        if isinstance(model, Supervised):
            noise = step_noise(arrays, step, ("",))
            loss = model(x[step], labels=arrays.tensor("y")[step], noise=noise)
        else:
            loss = model(x[step, 0], x[step, 1], noise=step_noise(arrays, step, ("_i", "_j")))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {name: value.grad for name, value in own.items()}
            norms(arrays, "step0_grad_norms", names, gradients, rtol=1e-6, atol=1e-8)
            arrays.close("step0_grad_conv1", own["encoder.conv1.weight"].grad, 1e-6, 1e-8)
            if "step0_grad_projlast_bias" in arrays:
                arrays.close("step0_grad_projlast_bias", own["projector.2.bias"].grad, 1e-6, 1e-8)
        optimizer.step()
        if isinstance(model, Byol):
            momentum = target_momentum(arrays.number("epoch"), arrays.number("epochs"), arrays.number("m0"))
            model.update_target(momentum)
        losses.append(loss.detach())
    arrays.close("losses", torch.stack(losses), 1e-7)
    norms(arrays, "final_param_norms", names, dict(own), rtol=1e-6, atol=1e-8)
    if "final_conv1" in arrays:
        arrays.close("final_conv1", own["encoder.conv1.weight"], 1e-6, 1e-8)
    if isinstance(model, Byol):
        target = {
            name.removeprefix("target_"): value
            for name, value in model.named_parameters()
            if name.startswith("target_")
        }
        target_names = arrays.numbers("target_names")
        require(set(target_names) == set(target), "target_names")
        norms(arrays, "target_param_norms", target_names, dict(target), rtol=1e-6, atol=1e-8)
        arrays.close("target_conv1", target["encoder.conv1.weight"], 1e-6, 1e-8)
        for name, encoder in (("target", model.target_encoder), ("online", model.encoder)):
            arrays.close(f"{name}_bn1_running_mean", encoder.bn1.running_mean, 1e-6, 1e-8)


def check_lars(arrays: Arrays) -> None:
    count, steps = arrays.number("n_params"), arrays.number("epochs") * arrays.number("steps_per_epoch")
    base, epochs = arrays.number("base_lr"), arrays.number("epochs")
    require(abs(base - 0.3 * arrays.number("batch_size") / 256) < 1e-12, "base_lr")
    parameters = [nn.Parameter(arrays.tensor(f"p{k}_init")) for k in range(count)]
    optimizer = Lars(
        parameters, base, arrays.number("momentum"), arrays.number("weight_decay"), arrays.number("eta"), published=True
    )
    rates, trajectories = [], [[] for _ in parameters]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = cosine_rate(step // arrays.number("steps_per_epoch"), epochs, base)
        rates.append(optimizer.param_groups[0]["lr"])
        for k, parameter in enumerate(parameters):
            parameter.grad = arrays.tensor(f"p{k}_grads")[step]
        optimizer.step()
        for k, parameter in enumerate(parameters):
            trajectories[k].append(parameter.detach().clone())
    arrays.close("lrs", torch.tensor(rates, dtype=torch.float64), 1e-10)
    for k, trajectory in enumerate(trajectories):
        arrays.close(f"p{k}_traj", torch.stack(trajectory), 1e-10, 1e-14)


def check_probe(arrays: Arrays) -> None:
    weight, epochs = arrays.tensor("init_weight"), arrays.number("epochs")
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.zero_()
    rate = cosine_rate if "imagenet" in arrays.name else step_rate
    rates = [rate(epoch, epochs) for epoch in range(epochs)]
    arrays.close("lrs", torch.tensor(rates, dtype=torch.float64), 1e-8)
    train, test = ((arrays.tensor(f"X_{part}"), arrays.tensor(f"y_{part}")) for part in ("train", "test"))
    orders = list(arrays.tensor("perms").long())
    probe = linear_probe(layer, train, test, orders, rates, arrays.number("batch_size"))
    arrays.close("epoch_losses", torch.tensor(probe.losses, dtype=torch.float64), 1e-8)
    arrays.close("epoch_test_acc", torch.tensor(probe.accuracies, dtype=torch.float64), 1e-8)
    arrays.close("best_acc", probe.best, 1e-8)
    arrays.close("final_weight", layer.weight, 1e-8, 1e-10)
    arrays.close("final_bias", layer.bias, 1e-8, 1e-10)


def check_split_traffic(arrays: Arrays) -> None:
    counts = arrays.numbers("class_counts")
    labels = np.arange(len(counts)).repeat(counts)
    starts = np.cumsum([0, *counts[:-1]])
    for name, chosen in zip(("train", "test"), split_by_class(labels, range(len(counts))), strict=True):
        arrays.equal(f"{name}_index_in_class", chosen - starts[labels[chosen]])
        arrays.equal(f"{name}_label", labels[chosen])


def check_split_flower(arrays: Arrays) -> None:
    labels = arrays.raw("labels_1based")
    rows = split_by_class(labels, first_seen(labels.tolist()))
    for name, chosen in zip(("train", "test"), rows, strict=True):
        arrays.equal(f"{name}_image_number", chosen + 1)
        arrays.equal(f"{name}_label_1based", labels[chosen])


def check_transform(arrays: Arrays) -> None:
    values = arrays.raw("image_uint8")
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    dataset = str(arrays.raw("dataset"))
    if "224" in arrays.name:
        out, stride = centred_pixels(image, dataset), arrays.number("stride")
        arrays.equal("out_shape", out.shape)
        arrays.close("out", out[:, ::stride, ::stride], 0.0, 1e-5)
        arrays.close("out_mean", out.mean(dim=(1, 2)), 0.0, 1e-5)
    else:
        arrays.close("out", pixels(image, dataset, arrays.number("size")), 0.0, 1e-6)


def check_detectron2(path: Path) -> None:
    told = json.loads(path.read_text())
    require(set(told) == {"arch", "top_level", "canonical_to_detectron2"}, "fields")
    require(set(told["top_level"]) == {"model", "__author__", "matching_heuristics"}, "top_level")
    require(told["top_level"]["matching_heuristics"] is True, "matching_heuristics")
    found = {f"encoder.{name}": detectron2_name(name) for name in Encoder(told["arch"], "imagenet").state_dict()}
    require(found == told["canonical_to_detectron2"], "canonical_to_detectron2")


def check_theory(path: Path) -> None:
    told = json.loads(path.read_text())
    require(set(told) == {"p", "axes", "units", "base", "representations"}, "fields")
    require((told["axes"], told["units"]) == (["v1", "v2", "T"], "nats"), "axes")
    table = np.array(told["p"])
    base = {
        "I_v1_v2": mutual_information(table, 0, 1), "I_v1_T": mutual_information(table, 0, 2),
        "I_v1_T_given_v2": mutual_information(table, 0, 2, given=1), "co_v1_v2_T": co_information(table, 0, 1, 2),
        "H_T": joint_entropy(table, [2]),
    }  # fmt: skip
    agree(base, told["base"])
    for representation in told["representations"].values():
        require(set(representation) == {"partition_of_v1", "values"}, "representation")
        joint = with_representation(table, representation["partition_of_v1"])
        conditional = joint_entropy(joint, [3]) - mutual_information(joint, 0, 3)
        values = {
            "I_z_v2": mutual_information(joint, 0, 2), "I_z_v1": mutual_information(joint, 0, 1),
            "I_z_v1_given_v2": mutual_information(joint, 0, 1, given=2), "I_z_T": mutual_information(joint, 0, 3),
            "I_z_T_given_v2": mutual_information(joint, 0, 3, given=2), "co_z_v2_T": co_information(joint, 0, 2, 3),
            "H_T_given_z": conditional, "bayes_error": bayes_error(joint), "bound": error_bound(conditional),
            "bound_clipped": error_bound(conditional, table.shape[2]),
        }  # fmt: skip
        agree(values, representation["values"])


def agree(found: dict[str, float], told: dict[str, float]) -> None:
    require(set(found) == set(told), f"{sorted(set(found) ^ set(told))}")
    for key, value in told.items():
        require(abs(found[key] - value) <= 1e-10, f"{key}: {found[key]}, expected {value}")


CHECKS: dict[str, Callable[[Arrays], None]] = {
    "ntxent_": check_ntxent,
    "barlow_": check_barlow,
    "lbe_": check_lbe,
    "byol_loss": check_byol,
    "decoder": check_decoder,
    "backbone_": check_backbone,
    "step_": check_step,
    "lars_": check_lars,
    "probe_": check_probe,
    "split_traffic": check_split_traffic,
    "split_flower": check_split_flower,
    "eval_transform": check_transform,
}
JSON_CHECKS: dict[str, Callable[[Path], None]] = {"detectron2_keys": check_detectron2, "theory_": check_theory}


def golden_files(folder: Path) -> list[Path]:
    """Everything in a folder but its README."""
    return sorted(path for path in folder.iterdir() if path.name != "README.md")


def check_file(path: Path) -> None:
    """Raise GoldenError unless everything in the file is documented and what this package computes."""
    if path.suffix == ".json":
        kinds = [name for name in JSON_CHECKS if path.name.startswith(name)]
        require(len(kinds) == 1, f"{path.name}: not a golden file this contract knows")
        JSON_CHECKS[kinds[0]](path)
        return
    kinds = [name for name in CHECKS if path.name.startswith(name)]
    require(len(kinds) == 1 and path.suffix == ".npz", f"{path.name}: not a golden file this contract knows")
    arrays = Arrays(path)
    CHECKS[kinds[0]](arrays)
    arrays.finish()
