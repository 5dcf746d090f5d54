"""Golden vectors of the published implementation: which function checks which file, and the functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmim.classifiers import SwinClassifier, VitClassifier
from lmim.decoder import TapDecoder
from lmim.masking import mask_from_noise, rescale_mask, unit_mask, units_to_cells
from lmim.positions import interpolate_positions, position_table
from lmim.schedule import (
    is_decayed,
    is_decayed_in_fine_tuning,
    layer_scale,
    learning_rate,
    parameter_groups,
    swin_layer,
    vit_layer,
)
from lmim.swin import PatchMerging, SparseSwin, WindowAttention
from lmim.swin_mim import SwinDecoder, SwinLocalMim
from lmim.targets import cell_histograms, normalised, orientation_map, pixel_vectors, sobel
from lmim.vit import LocalMim
from lmim.windows import UNITS, group_windows, unit_coordinates, window_numbers


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
        """Floats as float64, others as they are."""
        value = torch.from_numpy(self.raw(key).copy())
        return value.double() if value.is_floating_point() else value

    def number(self, key: str) -> Any:
        return self.raw(key).item()

    def numbers(self, key: str) -> list[Any]:
        return self.raw(key).tolist()

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): self.tensor(key) for key in self.arrays if key.startswith(prefix)}

    def equal(self, key: str, ours: Tensor) -> None:
        theirs = self.tensor(key)
        require(list(theirs.shape) == list(ours.shape), f"{key}: {list(theirs.shape)}, ours {list(ours.shape)}")
        require(bool((theirs == ours).all()), f"{self.name}/{key}: differs")

    def close(self, key: str, ours: Tensor, tolerance: float = 1e-9) -> None:
        """max|a - b| <= tolerance max|b|; 2e-6 where float32 is stored."""
        single = self.raw(key).dtype == np.float32
        theirs, ours = self.tensor(key), ours.detach().double()
        require(list(theirs.shape) == list(ours.shape), f"{key}: {list(theirs.shape)}, ours {list(ours.shape)}")
        require(bool(theirs.isfinite().all() and ours.isfinite().all()), f"{self.name}/{key}: not finite")
        largest = float(theirs.abs().max()) if theirs.numel() else 0.0
        error = float((theirs - ours).abs().max()) if theirs.numel() else 0.0
        allowed = (max(tolerance, 2e-6) if single else tolerance) * max(largest, 1e-12)
        require(error <= allowed, f"{self.name}/{key}: off by {error:.3g} of {largest:.3g}")

    def finish(self) -> None:
        extra = sorted(set(self.arrays) - self.taken)
        require(not extra, f"{self.name}: undocumented arrays {extra[:5]}")


def load(model: nn.Module, state: dict[str, Tensor]) -> Any:
    """All weights from `state` in float64; fixed position tables may be absent."""
    model = model.double()
    missing, unknown = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith(("pos_embed", "hog_biases"))]
    require(not missing and not unknown, f"missing {missing[:3]}, unknown {unknown[:3]}")
    return model


def gradients(arrays: Arrays, model: nn.Module) -> None:
    """Those stored whole, and the norms of all."""
    own = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    for key in [key for key in arrays.arrays if key.startswith("g/")]:
        arrays.close(key, own[key.removeprefix("g/")], 1e-8)
    if "grad_names" in arrays:
        names = arrays.numbers("grad_names")
        missing = set(names) ^ set(own)
        require(not missing, f"{arrays.name}: gradients {sorted(missing)[:3]}")
        arrays.close("grad_norms", torch.stack([own[name].norm() for name in names]), 1e-7)


def check_decoder(arrays: Arrays) -> None:
    x, restore = arrays.tensor("x").requires_grad_(), arrays.tensor("ids_restore")
    state, y = arrays.under("w/"), arrays.tensor("y")
    model = TapDecoder(
        x.shape[2], arrays.number("grid"), y.shape[2], arrays.number("scale"), state["norm.weight"].numel(),
        arrays.number("heads"),
    )  # fmt: skip
    arrays.close("w/pos_embed", model.pos_embed)
    load(model, state)
    found = model(x, restore)
    (found * arrays.tensor("cotangent")).sum().backward()
    assert x.grad is not None
    arrays.close("y", found)
    arrays.close("grad_x", x.grad)
    gradients(arrays, model)


def check_hog(arrays: Arrays) -> None:
    x, bins, cells = arrays.tensor("x"), arrays.number("nbins"), arrays.numbers("pools")
    biased = bool(arrays.number("uses_bias")) if "uses_bias" in arrays else False
    bias = None
    for cell in cells:
        bias = tuple(arrays.numbers(f"bias_{cell}")) if biased else None
        arrays.close(f"hog_{cell}", cell_histograms(orientation_map(x, bins, bias), cell)[:, 0], 1e-12)
        if f"hog32_{cell}" in arrays:
            single = cell_histograms(orientation_map(x.float(), bins, bias), cell)[:, 0]
            arrays.close(f"hog32_{cell}", single, 1e-6)
    if "gxy" in arrays:
        shifts = bias or (0.0, 0.0)
        both = [part + shift for part, shift in zip(sobel(x), shifts, strict=True)]
        arrays.close("gxy", torch.cat(both, dim=1))


def check_schedule(arrays: Arrays) -> None:
    for case in sorted({key.split("_")[0] for key in arrays.arrays}):
        peak, floor, warmup, epochs = arrays.numbers(f"{case}_cfg")
        found = [learning_rate(epoch, peak, floor, warmup, epochs) for epoch in arrays.numbers(f"{case}_epoch")]
        arrays.close(f"{case}_lr", torch.tensor(found, dtype=torch.float64))


def check_masking(arrays: Arrays) -> None:
    for case in sorted({key.split("_")[0] for key in arrays.arrays}):
        x = arrays.tensor(f"{case}_x")
        mask = mask_from_noise(arrays.tensor(f"{case}_noise"), arrays.number(f"{case}_ratio"))
        arrays.equal(f"{case}_x_keep", x.gather(1, mask.keep[:, :, None].expand(-1, -1, x.shape[2])))
        arrays.equal(f"{case}_mask", mask.mask)
        arrays.equal(f"{case}_ids_restore", mask.restore)
        for number, scale in enumerate((4, 2, 1, 0.5)):
            arrays.equal(f"{case}_mask_scale{number}", rescale_mask(mask.mask, scale))


def check_pixels(arrays: Arrays) -> None:
    x = arrays.tensor("x")
    for size in arrays.numbers("patch_sizes"):
        vectors = pixel_vectors(x, size)
        arrays.equal(f"patch_{size}", vectors)
        arrays.close(f"norm_{size}", normalised(vectors))


def check_positions(arrays: Arrays) -> None:
    for key in arrays.arrays:
        found = re.fullmatch(r"dim(\d+)_grid(\d+)_cls([01])", key)
        require(found is not None, f"undocumented {key}")
        assert found is not None
        arrays.close(key, position_table(int(found[1]), int(found[2]), class_token=found[3] == "1"), 1e-12)


def check_interpolation(arrays: Arrays) -> None:
    old, grid = arrays.tensor("old"), arrays.number("new_grid")
    require(old.shape[1] == 1 + arrays.number("old_grid") ** 2, "old_grid")
    arrays.close("new", interpolate_positions(old, grid))


def check_vit(arrays: Arrays) -> None:
    state = arrays.under("w/")
    biases = {key: value for key, value in state.items() if key.startswith("hog_enc")}
    model = LocalMim(
        arrays.number("img_size"), arrays.number("patch_size"), arrays.number("embed_dim"), arrays.number("depth"),
        arrays.number("num_heads"),
        decoder_dim=arrays.number("decoder_embed_dim"),
        decoder_heads=arrays.number("decoder_num_heads"), bins=arrays.number("hog_nbins"),
        taps=arrays.numbers("layers"),
    )  # fmt: skip
    load(model, {key: value for key, value in state.items() if key not in biases})
    if biases:
        model.hog_biases = torch.stack([biases[f"hog_enc.{tap}.conv.bias"] for tap in range(4)])
    images, noise, ratio = arrays.tensor("imgs"), arrays.tensor("noise"), arrays.number("mask_ratio")
    found = model(images, ratio, noise[0])
    found.loss.backward()
    arrays.equal("mask", found.mask)
    arrays.equal("ids_restore", mask_from_noise(noise[0], ratio).restore)
    arrays.close("loss", found.loss)
    arrays.close("loss_per_scale", found.losses)
    for tap in range(4):
        latent, prediction, target = found.latents[tap], found.predictions[tap], found.targets[tap]
        arrays.close(f"latent_{tap}", latent)
        summaries = {
            f"latent_{tap}_sum": latent.sum(), f"pred_{tap}_sum": prediction.sum(), f"target_{tap}_sum": target.sum(),
            f"pred_{tap}_absmean": prediction.abs().mean(),
        }  # fmt: skip
        for key, value in summaries.items():
            arrays.close(key, value, 1e-8)
        for key, value in ((f"pred_{tap}", prediction), (f"target_{tap}", target)):
            if key in arrays:
                arrays.close(key, value)
    if "patch_embed_out_sum" in arrays:
        arrays.close("patch_embed_out_sum", model.patch_embed(images).sum(), 1e-8)
    gradients(arrays, model)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, 0.05, is_decayed), lr=arrays.number("adamw_lr"), betas=(0.9, 0.95), eps=1e-8
    )
    losses = []
    for step in noise[1:]:
        loss = model(images, ratio, step).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    arrays.close("adamw_losses", torch.stack(losses), 1e-6)
    arrays.close("final_cls_token", model.cls_token, 1e-5)


def check_groups(
    arrays: Arrays, model: nn.Module, decay: float, depth: int, layer: Callable[[str], int], rule: Any
) -> None:
    """Learning-rate scale and weight decay of every parameter."""
    parameters = dict(model.named_parameters())
    names = arrays.numbers("group_names")
    require(set(names) == set(parameters), f"{arrays.name}: names {sorted(set(names) ^ set(parameters))[:3]}")
    scales = [layer_scale(layer(name), depth, decay) for name in names]
    decays = [0.05 if rule(name, parameters[name]) else 0.0 for name in names]
    arrays.close("group_lr_scale", torch.tensor(scales, dtype=torch.float64))
    arrays.close("group_weight_decay", torch.tensor(decays, dtype=torch.float64))


def check_vit_finetune(arrays: Arrays) -> None:
    state, x, depth = arrays.under("w/"), arrays.tensor("x"), arrays.number("depth")
    model = VitClassifier(
        len(state["head.bias"]), arrays.number("img_size"), arrays.number("patch_size"), arrays.number("embed_dim"),
        depth, arrays.number("num_heads"), global_pool=bool(arrays.number("global_pool")),
    )  # fmt: skip
    load(model, state)
    arrays.close("features", model.features(x))
    arrays.close("logits", model(x))
    decay = arrays.number("layer_decay")
    check_groups(arrays, model, decay, depth, lambda name: vit_layer(name, depth), is_decayed_in_fine_tuning)


def check_attention(arrays: Arrays) -> None:
    coordinates = arrays.tensor("coords")[0]
    window, shift, heads = (arrays.number(key) for key in ("window", "shift", "heads"))
    arrays.number("resolution")
    x = arrays.tensor("x").requires_grad_()
    model = load(WindowAttention(x.shape[2], heads, window), arrays.under("w/"))
    y = model(x, group_windows(coordinates, window, shift))
    (y * arrays.tensor("cotangent")).sum().backward()
    assert x.grad is not None
    arrays.close("y", y)
    arrays.close("grad_x", x.grad)
    arrays.close("grad_table", model.relative_position_bias_table.grad)
    arrays.close("grad_qkv_bias", model.qkv.bias.grad)
    theirs, ours = arrays.tensor("window_id"), window_numbers(coordinates, window, shift)
    same = [(ids[:, None] == ids[None]) for ids in (theirs, ours)]
    require(bool(torch.equal(*same)), "window_id: another partition")


def check_swin_decoder(arrays: Arrays) -> None:
    state, x, mask = arrays.under("w/"), arrays.tensor("x"), arrays.tensor("unit_mask")
    out, dim = state["pred.weight"].shape
    model = SwinDecoder(x.shape[2], arrays.number("cells_per_unit_side"), out, dim, arrays.number("heads"))
    y = load(model, state)(x, mask)
    arrays.close("y", y[:, :: arrays.number("y_stride")])
    arrays.close("y_sum", y.sum(), 1e-8)
    arrays.close("y_abssum", y.abs().sum(), 1e-8)


def check_merging(arrays: Arrays) -> None:
    x, mask, resolution = arrays.tensor("x"), arrays.tensor("unit_mask"), arrays.number("resolution")
    side = resolution // UNITS
    model = load(PatchMerging(x.shape[2], "published"), arrays.under("w/"))
    arrays.close("y", model(x, side))
    units = (~mask).nonzero().flatten()
    arrays.equal("coords", unit_coordinates(units, side // 2, published=True)[None])
    arrays.equal("visible", (~mask).repeat_interleave((side // 2) ** 2)[None])


def restored(mask: Tensor, side: int) -> Tensor:
    """Where each token, unit by unit, is in the list of visible and then hidden ones."""
    return mask.repeat_interleave(side**2).int().argsort(stable=True).argsort()


def geometry_of(arrays: Arrays) -> Any:
    return "published" if "published" in arrays.name else "correct"


def swin_encoder(arrays: Arrays, patch: int) -> SparseSwin:
    return SparseSwin(
        patch, arrays.number("embed_dim"), arrays.numbers("depths"), arrays.numbers("num_heads"),
        arrays.number("window"), geometry=geometry_of(arrays),
    )  # fmt: skip


def check_swin_encoder(arrays: Arrays) -> None:
    model, mask = load(swin_encoder(arrays, 1), arrays.under("w/")), arrays.tensor("mask")
    outputs = model(arrays.tensor("x"), mask)
    sum(((stage + 1) * output).square().mean() for stage, output in enumerate(outputs)).backward()
    for stage, (output, side) in enumerate(zip(outputs, (4, 2, 1, 1), strict=True)):
        arrays.close(f"latent_{stage}", output)
        arrays.close(f"latent_{stage}_sum", output.sum(), 1e-7)
        arrays.equal(f"ids_restore_{stage}", restored(mask, side).to(arrays.tensor(f"ids_restore_{stage}").dtype))
    gradients(arrays, model)
    arrays.close("grad_patch_embed_bias", model.patch_embed.proj.bias.grad)
    arrays.close("grad_merge0", model.layers[0].downsample.reduction.weight.grad)
    arrays.close("grad_table0", model.layers[0].blocks[1].attn.relative_position_bias_table.grad)


def check_swin_full(arrays: Arrays) -> None:
    state = arrays.under("w/")
    biases = {key: value for key, value in state.items() if key.startswith("hog_enc")}
    pixels, normalise = str(arrays.raw("target")) == "Pixel", bool(arrays.number("norm_pix_loss"))
    dims = [state[f"decoder.{tap}.embed.bias"].numel() for tap in range(4)]
    require(arrays.number("decoder_embed_dim") in (dims[1], dims[-1]), "decoder_embed_dim")
    model = SwinLocalMim(
        swin_encoder(arrays, 4), decoder_dims=dims, decoder_heads=arrays.number("decoder_num_heads"),
        target=("normalised-pixels" if normalise else "pixels") if pixels else "hog", bins=arrays.number("hog_nbins"),
    )  # fmt: skip
    load(model, {key: value for key, value in state.items() if key not in biases})
    if biases:
        model.hog_biases = torch.stack([biases[f"hog_enc.{tap}.conv.bias"] for tap in range(4)])
    rows, columns = arrays.tensor("image_factor_rows"), arrays.tensor("image_factor_cols")
    images = torch.einsum("bcri,bcrj->bcij", rows, columns) / rows.shape[2] ** 0.5
    permutation, ratio = arrays.tensor("randperm"), arrays.number("mask_ratio")
    found = model(images, ratio, permutation)
    found.loss.backward()
    arrays.equal("mask", unit_mask(permutation, ratio))
    require(int(units_to_cells(found.mask, 2).sum()) == 4 * int(found.mask.sum()), "cells of units")
    arrays.close("loss", found.loss, 1e-8)
    arrays.close("loss_per_scale", found.losses, 1e-8)
    for tap in range(4):
        prediction, target = found.predictions[tap], found.targets[tap]
        arrays.close(f"pred_{tap}_sum", prediction.sum(), 1e-6)
        arrays.close(f"pred_{tap}_abssum", prediction.abs().sum(), 1e-7)
        target_sum = arrays.tensor(f"target_{tap}_sum")
        # Sums of normalised pixels cancel to rounding
        error = float((target.sum() - target_sum).abs())
        require(error <= 1e-7 * float(target.abs().sum()), f"target_{tap}_sum: off by {error}")
        for key, value in ((f"pred_{tap}", prediction), (f"target_{tap}", target)):
            if key in arrays:
                arrays.close(key, value)
    gradients(arrays, model)


def check_swin_finetune(arrays: Arrays) -> None:
    state, x = arrays.under("w/"), arrays.tensor("x")
    depths = tuple(arrays.numbers("depths"))
    model = SwinClassifier(
        len(state["head.bias"]), 1, arrays.number("embed_dim"), depths, arrays.numbers("num_heads"),
        arrays.number("window"),
    )  # fmt: skip
    load(model, state)
    arrays.close("features", model.features(x))
    arrays.close("logits", model(x))
    decay = arrays.number("layer_decay")
    check_groups(arrays, model, decay, sum(depths), lambda name: swin_layer(name, depths), is_decayed)


def check_grouping(arrays: Arrays) -> None:
    """Another packing is allowed; ours has one group a window. The published one must be a packing of its counts."""
    for case in sorted({key.split("_")[0] for key in arrays.arrays}):
        counts, groups = arrays.tensor(f"{case}_counts"), arrays.tensor(f"{case}_group_of_window")
        sizes = torch.zeros(int(groups.max()) + 1, dtype=counts.dtype).index_add(0, groups, counts)
        arrays.equal(f"{case}_group_sizes", sizes)
        require(int(sizes.max()) <= arrays.number(f"{case}_capacity"), "capacity")


CHECKS: dict[str, Callable[[Arrays], None]] = {
    "decoder_": check_decoder,
    "hog_": check_hog,
    "lr_schedule": check_schedule,
    "masking": check_masking,
    "pixel_targets": check_pixels,
    "pos_embed": check_positions,
    "pos_interp": check_interpolation,
    "vit_full": check_vit,
    "vit_finetune": check_vit_finetune,
    "swin_attention": check_attention,
    "swin_decoder": check_swin_decoder,
    "swin_patch_merging": check_merging,
    "swin_encoder": check_swin_encoder,
    "swin_full": check_swin_full,
    "swin_finetune": check_swin_finetune,
    "window_grouping": check_grouping,
}


def golden_files(folder: Path) -> list[Path]:
    """Everything in a folder but its README."""
    return sorted(path for path in folder.iterdir() if path.name != "README.md")


def check_file(path: Path) -> None:
    """Raise GoldenError unless every array of the file is documented and what this package computes."""
    kinds = [name for name in CHECKS if path.name.startswith(name)]
    require(len(kinds) == 1 and path.suffix == ".npz", f"{path.name}: not a golden file this contract knows")
    arrays = Arrays(path)
    CHECKS[kinds[0]](arrays)
    arrays.finish()
