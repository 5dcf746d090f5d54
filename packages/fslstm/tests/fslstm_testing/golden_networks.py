"""Golden checks of backbones, residual blocks, DropBlock, schedules and the published sampler."""

import math
from functools import cache
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from fslstm.backbones import Backbone, Conv4, ResidualBlock, ResNet12
from fslstm.drop_block import drop_block, drop_block_gamma, drop_block_keep_rate, drop_block_mask
from fslstm.objective import learning_rate_multiplier
from fslstm.published import published_episodes, published_parameter_order
from fslstm_testing.golden_file import GoldenFile, require

CLOSED_FORM, FEATURES, SINGLE = 1e-9, 1e-8, 2e-4
DROP_BLOCK_COLUMNS = ["drop_rate", "forward_count", "block_size", "feature_size", "keep_rate", "gamma"]


def filled(number: int, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Tensor number t of the documented fill rule, float64."""
    index = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    x = (index * np.uint64(2654435761) + np.uint64(number * 40503)) & mask
    x ^= x >> np.uint64(15)
    x = (x * np.uint64(2246822519)) & mask
    x ^= x >> np.uint64(13)
    return torch.from_numpy(low + (high - low) * (x / 2**32)).reshape(shape)


def fill_backbone(network: Backbone) -> None:
    """Weights and statistics by the fill rule, in the published order."""
    state = network.state_dict()
    for number, name in enumerate(published_parameter_order(network), start=1):
        shape = tuple(state[name].shape)
        if len(shape) == 4:
            bound = math.sqrt(6 / math.prod(shape[1:]))
            low, high = -bound, bound
        elif name.endswith(("weight", "running_var")):
            low, high = 0.5, 1.5
        else:
            low, high = -0.2, 0.2
        state[name].copy_(filled(number, shape, low, high))


@cache
def backbone_outputs(name: str, size: int) -> tuple[dict[str, Tensor], list[str], int]:
    """Arrays of a backbone file, the parameter names and the number of parameters; computed once a setting."""
    network = Conv4(image_size=size, dropout=(0.0,) * 4) if name == "conv4" else ResNet12(image_size=size, dropout=0.0)
    fill_backbone(network.double())
    images = filled(1000, (2, 3, size, size), -2, 2)
    order = published_parameter_order(network)
    means = [entry for entry in order if entry.endswith("running_mean")]
    with torch.no_grad():
        outputs = {"features_eval": network.eval()(images), "features_train_batchstats": network.train()(images)}
    state = network.state_dict()
    outputs["running_mean_first_after"] = state[means[0]]
    outputs["running_mean_last_after"] = state[means[-1]]
    outputs["running_var_last_after"] = state[means[-1].replace("running_mean", "running_var")]
    return outputs, order, sum(parameter.numel() for parameter in network.parameters())


def check_backbone(file: GoldenFile, name: str) -> None:
    """`backbone_<name>.npz`, name conv4 or resnet12 and the image size."""
    size = file.whole("input_size")
    require(size in (32, 84), f"input_size: {size} is neither 32 nor 84")
    outputs, order, n_parameters = backbone_outputs(name, size)
    for key, ours in outputs.items():
        file.close(key, ours, FEATURES, *ours.shape)
    names = file.array("parameter_order", "U", len(order))
    require(names.tolist() == order, "parameter_order: differs")
    require(file.whole("n_parameters") == n_parameters, f"n_parameters: not {n_parameters}")


def check_resblock(file: GoldenFile, channels: tuple[int, int]) -> None:
    """`resblock_<in>_<out>.npz`: evaluation mode, then training mode with its running statistics."""
    inputs, outputs = channels
    block = ResidualBlock(inputs, outputs).double()
    names = published_parameter_order(block)
    shapes = {name: tuple(block.state_dict()[name].shape) for name in names}
    state = {name: file.floats(f"param.{name}", *shape) for name, shape in shapes.items()}
    block.load_state_dict(state, strict=False)
    images = file.floats("input", "B", inputs, "H", "W")
    half = (file.sizes["H"] // 2, file.sizes["W"] // 2)
    cotangent = file.floats("cotangent", "B", outputs, *half)
    for mode in ("eval", "train"):
        block.train(mode == "train")
        features = images.clone().requires_grad_()
        result = block(features)
        file.close(f"output_{mode}", result, CLOSED_FORM, "B", outputs, *half)
        (result * cotangent).sum().backward()
        assert features.grad is not None
        file.close(f"grad_input_{mode}", features.grad, CLOSED_FORM, "B", inputs, "H", "W")
    for name in names:
        if "running" in name:
            file.close(f"after.{name}", block.state_dict()[name], CLOSED_FORM, *shapes[name])
    block.load_state_dict(state, strict=False)
    single = block.float().eval()(images.float())
    file.relatively_close("output_eval", single, SINGLE, "B", outputs, *half)


def check_drop_block(file: GoldenFile) -> None:
    """`dropblock_<case>.npz`."""
    features, size = file.floats("x", "B", "C", "H", "W"), file.whole("block_size")
    grid = (file.sizes["H"] - size + 1, file.sizes["W"] - size + 1)
    seeds = file.floats("seed_mask", "B", "C", *grid)
    require(bool(((seeds == 0) | (seeds == 1)).all()), "seed_mask: entries other than 0 and 1")
    require(math.gcd(int(seeds.sum()), size**2) == 1, "seed_mask: number of seeds not coprime with block_size^2")
    mask = drop_block_mask(seeds, size)
    file.close("block_mask", mask, 0.0, "B", "C", "H", "W")
    file.close("output", drop_block(features, mask), CLOSED_FORM, "B", "C", "H", "W")


def check_schedules(file: GoldenFile) -> None:
    """`schedules.npz`."""
    multipliers = torch.tensor([learning_rate_multiplier(epoch) for epoch in range(60)], dtype=torch.float64)
    file.close("lr_multiplier_by_epoch", multipliers, 1e-12, 60)
    columns = file.array("dropblock_columns", "U", "columns")
    require(columns.tolist() == DROP_BLOCK_COLUMNS, "dropblock_columns: differs")
    rows = file.floats("dropblock", "rows", "columns")
    ours = []
    for rate, count, block_size, feature_size, *_ in rows.tolist():
        require(all(value == int(value) for value in (count, block_size, feature_size)), "dropblock: not whole")
        keep = drop_block_keep_rate(rate, int(count))
        gamma = drop_block_gamma(keep, int(block_size), int(feature_size))
        ours.append([rate, count, block_size, feature_size, float(keep), float(gamma)])
    file.close("dropblock", torch.tensor(ours, dtype=torch.float64), 1e-12, "rows", "columns")


def check_sampler(file: GoldenFile) -> None:
    """`sampler_<case>.npz`: the whole sequence, replayed."""
    way, shot, queries = (file.whole(name) for name in ("way", "shot", "query"))
    settings = {name: file.whole(name) for name in ("n_base_classes", "n_novel_classes", "images_per_class")}
    episodes = published_episodes(seed=file.whole("seed", 0), n_way=way, n_shot=shot, n_query=queries, **settings)
    n_episodes = len(file.integers("classes", "E", way))
    replayed = list(islice(episodes, n_episodes))
    sizes = {"classes": way, "support_ids": way * shot, "query_ids": way * queries}
    sizes |= {"support_labels": way * shot, "query_labels": way * queries}
    for name, size in sizes.items():
        ours = np.array([getattr(one, name) for one in replayed], dtype=np.int64)
        file.equal(name, torch.from_numpy(ours), "E", size)
