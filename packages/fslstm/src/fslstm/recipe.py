"""The experiments that the package offers; entry points of the group `sextet.recipes`.

Letters from free fonts: 26 capitals are the base classes; 10 digits and 10 small letters that look like no capital are
the novel ones. A small Conv4 is pre-trained on the base classes, then heads are compared on the same episodes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from fslstm.backbones import Conv4
from fslstm.evaluation import episode_accuracies
from fslstm.networks import load_attention, make_base_learner
from fslstm.pretraining import PretrainingConfig, embed, pretrain
from fslstm.training import Learner, MetaTrainingConfig, meta_train
from fslstm.transduction import InverseAttention, classifier
from sextet.cuda import select_device
from sextet.data import GLYPHS, load
from sextet.data.glyphs import CHARACTERS
from sextet.episodes import EpisodeSampler
from sextet.recipe import Metrics, Recipe, RunContext, Scores

BASE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NOVEL = "0123456789abdeghnqrt"


@dataclass(frozen=True)
class GlyphConfig:
    """One cell: a head, with or without the transductive modules, on frozen or meta-trained features.

    Attributes:
        head: `prototype`, `ridge`, `svm` or `ls_svm`.
        ridge: regulariser of `ridge` and `ls_svm` (50 and 0.1 in the paper).
        cost: C of `svm`.
        n_way, n_shot, n_query, episodes: the test episodes.
        psm_rounds: rounds of the Pseudo Support Module; 0 for none.
        iam: whether the Inverse Attention Module adjusts the support features.
        iam_reduction: its bottleneck is dim / reduction wide.
        learn: what learns after pre-training: `nothing`, the `attention` module alone on frozen features and episodes
            of `n_shot`, or `everything` jointly.
        meta: the recipe of that learning.
        widths, dropout: of the Conv4, one a block.
        pretraining: the recipe of the embedding.
    """

    head: str = "ls_svm"
    ridge: float = 0.1
    cost: float = 0.1
    n_way: int = 5
    n_shot: int = 1
    n_query: int = 15
    episodes: int = 1000
    psm_rounds: int = 0
    iam: bool = False
    iam_reduction: int = 8
    learn: str = "nothing"
    meta: MetaTrainingConfig = field(
        default_factory=lambda: MetaTrainingConfig(epochs=5, steps_per_epoch=160, decay=((3, 0.06),))
    )
    widths: tuple[int, ...] = (32, 48, 64, 128)
    dropout: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)

    def __post_init__(self) -> None:
        if self.learn not in ("nothing", "attention", "everything"):
            raise ValueError(f"learn: expected nothing, attention or everything, got {self.learn!r}")
        if (self.iam, self.learn) in ((True, "nothing"), (False, "attention")):
            raise ValueError(f"iam={self.iam} does not go with learn={self.learn!r}: the attention module must learn")


def run_glyphs(config: GlyphConfig, context: RunContext) -> Metrics:
    """Accuracy over test episodes of the novel classes, one score an episode."""
    device = select_device(context.device)
    folder = embedding_stage(config, context, device)
    if config.learn != "nothing":
        folder = learning_stage(config, context, device, folder)
    tensors = load_tensors(folder)
    attention = None
    if config.iam:
        attention = load_attention(folder, tensors["novel"].shape[1], config.iam_reduction).to(device).eval()
    sampler = EpisodeSampler(
        tensors["novel_labels"].numpy(), config.n_way, config.n_shot, config.n_query, seed=context.seed
    )
    classify = classifier(make_base_learner(config.head, config.ridge, config.cost), attention, config.psm_rounds)
    accuracies = episode_accuracies(classify, tensors["novel"], sampler, episodes=config.episodes, device=device)
    return {"accuracy": Scores(tuple(accuracies.tolist()), unit="episode")}


def embedding_stage(config: GlyphConfig, context: RunContext, device: torch.device) -> Path:
    """Folder of the pre-trained embedding's weights and of its features of all base and novel glyphs."""

    def build(folder: Path) -> None:
        images, labels = glyph_images(context, BASE)
        torch.manual_seed(context.seed)
        backbone = make_backbone(config)
        pretrain(backbone, images, labels, config.pretraining, folder, seed=context.seed, device=device)
        save_embedding(backbone, context, device, folder)

    names = ("pretraining", "widths", "dropout")
    return context.stage("glyph-embedding", {**chosen(config, names), "seed": context.seed}, build)


def learning_stage(config: GlyphConfig, context: RunContext, device: torch.device, embedding: Path) -> Path:
    """Folder of the attention module (and, where everything learns, of a new embedding) after meta-training."""

    def build(folder: Path) -> None:
        torch.manual_seed(context.seed)
        tensors = load_tensors(embedding)
        attention = InverseAttention(tensors["base"].shape[1], config.iam_reduction) if config.iam else None
        if config.learn == "everything":
            backbone = load_backbone(config, embedding)
            learner = Learner(backbone, make_base_learner(config.head, config.ridge, config.cost), attention)
            images, labels = glyph_images(context, BASE)
            meta_train(learner, images, labels, config.meta, folder, seed=context.seed, device=device)
            save_embedding(backbone, context, device, folder)
        else:
            learner = Learner(nn.Identity(), make_base_learner(config.head, config.ridge, config.cost), attention)
            meta = replace(config.meta, n_shot=config.n_shot, lr=0.0)
            meta_train(learner, tensors["base"], tensors["base_labels"], meta, folder, seed=context.seed, device=device)
            safetensors.torch.save_file(tensors, folder / "features.safetensors")
        if attention is not None:
            safetensors.torch.save_file(attention.cpu().state_dict(), folder / "attention.safetensors")

    names = ("head", "ridge", "cost", "iam", "iam_reduction", "learn", "meta", "widths", "dropout", "pretraining")
    shot = config.n_shot if config.learn == "attention" else config.meta.n_shot
    return context.stage("glyph-learning", {**chosen(config, names), "n_shot": shot, "seed": context.seed}, build)


def chosen(config: GlyphConfig, names: tuple[str, ...]) -> dict[str, Any]:
    """Some fields of a config, nested ones as mappings."""
    return {name: value for name, value in asdict(config).items() if name in names}


def make_backbone(config: GlyphConfig) -> Conv4:
    """A Conv4 for grey 32x32 images with fresh weights."""
    return Conv4(in_channels=1, widths=config.widths, image_size=32, dropout=config.dropout)


def glyph_images(context: RunContext, characters: str) -> tuple[Tensor, Tensor]:
    """Standardised images [n, 1, 32, 32] float32 of some characters, and labels 0.. in their order [n]."""
    arrays = load(GLYPHS, context.data_root)
    classes = np.array([CHARACTERS.index(character) for character in characters])
    rows = np.flatnonzero(np.isin(arrays["labels"], classes))
    position = np.full(len(CHARACTERS), -1)
    position[classes] = np.arange(len(classes))
    images = torch.from_numpy(arrays["images"][rows]).permute(0, 3, 1, 2).float()
    return (images - images.mean()) / images.std(), torch.from_numpy(position[arrays["labels"][rows]])


def save_embedding(backbone: nn.Module, context: RunContext, device: torch.device, folder: Path) -> None:
    """Write `backbone.safetensors`, and `features.safetensors` with features and labels of base and novel glyphs."""
    tensors = {}
    for name, characters in (("base", BASE), ("novel", NOVEL)):
        images, labels = glyph_images(context, characters)
        tensors |= {name: embed(backbone, images, device=device), f"{name}_labels": labels}
    safetensors.torch.save_file(tensors, folder / "features.safetensors")
    safetensors.torch.save_file(backbone.cpu().state_dict(), folder / "backbone.safetensors")


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """Features [n, dim] and labels [n] as `save_embedding` wrote them: base, base_labels, novel, novel_labels."""
    return safetensors.torch.load_file(folder / "features.safetensors")


def load_backbone(config: GlyphConfig, folder: Path) -> nn.Module:
    """The embedding of a stage."""
    backbone = make_backbone(config)
    backbone.load_state_dict(safetensors.torch.load_file(folder / "backbone.safetensors"))
    return backbone


RECIPE = Recipe(
    config=GlyphConfig,
    run=run_glyphs,
    data=lambda _: (GLYPHS,),
    describe="few-shot classification of unseen characters on features of a Conv4 trained on capitals",
)
