"""The paper's own experiments: CIFAR-FS and mini-ImageNet, Conv4 and ResNet12, meta-trained with each base learner.

One run is one cell: pre-training on Places365 (shared by all), meta-training (shared by the cells that differ in the
test alone), test features, test episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import safetensors.torch

from fslstm.evaluation import episode_accuracies
from fslstm.learning import DATASETS, IMAGE_SIZE, LearningConfig, features_stage, learning_stage
from fslstm.networks import load_attention, make_base_learner
from fslstm.places import PLACES365, PlacesConfig, places_stage
from fslstm.samplers import ImbalancedSampler, PublishedSampler
from fslstm.training import MetaTrainingConfig
from fslstm.transduction import classifier
from sextet.cuda import select_device
from sextet.data import Passport
from sextet.episodes import EpisodeSampler
from sextet.recipe import Metrics, Recipe, RunContext, Scores

_CHOICES = {
    "dataset": tuple(DATASETS),
    "backbone": ("conv4", "resnet12"),
    "head": ("prototype", "ridge", "svm", "ls_svm"),
    "code": ("ova", "ovo", "ecoc"),
    "initialisation": ("places365", "scratch"),
    "queries": ("balanced", "dirichlet"),
    "protocol": ("ours", "as-published"),
}


@dataclass(frozen=True)
class Published:
    """What the published command lines set differently for each dataset and network (section 7).

    Attributes:
        lr: of a pre-trained embedding; from scratch it is 0.1.
        attention_lr: of the Inverse Attention Module.
        reduction: its bottleneck is dim / reduction wide.
        train_shot: shots of the training episodes.
    """

    lr: float
    attention_lr: float
    reduction: int
    train_shot: int


PUBLISHED = {
    ("cifar-fs", "conv4"): Published(5e-3, 1e-2, 8, 5),
    ("cifar-fs", "resnet12"): Published(5e-4, 5e-3, 8, 5),
    ("mini-imagenet", "conv4"): Published(5e-3, 1e-2, 32, 15),
    ("mini-imagenet", "resnet12"): Published(5e-4, 5e-3, 16, 15),
}
SCRATCH_LR = 0.1


@dataclass(frozen=True)
class PaperConfig:
    """One cell of the paper's tables. None stands for the value published for that dataset and network.

    Attributes:
        dataset: `cifar-fs` or `mini-imagenet`.
        backbone: `conv4` or `resnet12`.
        head: `prototype`, `ridge`, `svm` or `ls_svm`, in meta-training and test.
        ridge: regulariser of `ridge` (50 as published) and `ls_svm` (0.1).
        cost: C of `svm`.
        code: output code of `ls_svm` in the test; meta-training is one-vs-all.
        iam: whether the Inverse Attention Module learns with the embedding and adjusts the support features.
        psm_rounds: rounds of the Pseudo Support Module in the test (10 as published); 0 for none.
        initialisation: `places365`, or `scratch` with learning rate 0.1.
        protocol: `ours`, or `as-published`: the published test episodes, a model selected by 5-shot validation.
        queries: `balanced`, or `dirichlet`: as many in all, divided among the classes at random.
        concentration: of that Dirichlet distribution.
        n_way, n_shot, n_query, episodes: the test episodes.
        val_shot, val_query, val_episodes: the validation episodes that select the epoch.
        train_shot, train_query, episodes_per_step, epochs, steps_per_epoch, decay, lr, attention_lr, reduction:
            meta-training, see `MetaTrainingConfig`.
        drop_block: DropBlock's final rate in ResNet12; 0 since it was most likely without effect as published.
        widths: channels of the network's four stages; empty for the published ones.
        places: the recipe of pre-training.
    """

    dataset: str = "cifar-fs"
    backbone: str = "conv4"
    head: str = "ls_svm"
    ridge: float = 0.1
    cost: float = 0.1
    code: str = "ova"
    iam: bool = False
    psm_rounds: int = 0
    initialisation: str = "places365"
    protocol: str = "ours"
    queries: str = "balanced"
    concentration: int = 2
    n_way: int = 5
    n_shot: int = 1
    n_query: int = 15
    episodes: int = 10_000
    val_shot: int = 5
    val_query: int = 15
    val_episodes: int = 2000
    train_shot: int | None = None
    train_query: int = 6
    episodes_per_step: int = 8
    epochs: int = 60
    steps_per_epoch: int = 1000
    decay: tuple[tuple[int, float], ...] = MetaTrainingConfig.decay
    lr: float | None = None
    attention_lr: float | None = None
    reduction: int | None = None
    drop_block: float = 0.0
    widths: tuple[int, ...] = ()
    places: PlacesConfig = field(default_factory=PlacesConfig)

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.code != "ova" and self.head != "ls_svm":
            raise ValueError(f"code: {self.code} goes with head ls_svm only, got head {self.head!r}")
        if self.protocol == "as-published" and (self.queries, self.val_shot) != ("balanced", 5):
            raise ValueError("protocol: as-published means balanced queries and val_shot 5")

    def learning(self) -> LearningConfig:
        """What the model of this cell depends on, with the published values filled in."""
        published = PUBLISHED[self.dataset, self.backbone]
        lr = published.lr if self.initialisation == "places365" else SCRATCH_LR
        meta = MetaTrainingConfig(
            n_way=self.n_way,
            n_shot=published.train_shot if self.train_shot is None else self.train_shot,
            n_query=self.train_query,
            episodes_per_step=self.episodes_per_step,
            epochs=self.epochs,
            steps_per_epoch=self.steps_per_epoch,
            lr=lr if self.lr is None else self.lr,
            attention_lr=published.attention_lr if self.attention_lr is None else self.attention_lr,
            decay=self.decay,
        )
        return LearningConfig(
            dataset=self.dataset,
            backbone=self.backbone,
            widths=self.widths,
            drop_block=self.drop_block,
            head=self.head,
            ridge=self.ridge,
            cost=self.cost,
            iam=self.iam,
            reduction=published.reduction if self.reduction is None else self.reduction,
            meta=meta,
            val_shot=self.val_shot,
            val_query=self.val_query,
            val_episodes=self.val_episodes,
        )


def run_paper(config: PaperConfig, context: RunContext) -> Metrics:
    """Accuracy over test episodes of the test classes, one score an episode."""
    learning = config.learning()
    pretrained = None
    if config.initialisation == "places365":
        size = IMAGE_SIZE[config.dataset]
        pretrained = places_stage(config.places, context, config.backbone, config.widths, size)
    learnt = learning_stage(learning, context, pretrained)
    tensors = safetensors.torch.load_file(features_stage(learning, context, learnt) / "features.safetensors")
    device = select_device(context.device)
    attention = None
    if config.iam:
        attention = load_attention(learnt, tensors["features"].shape[1], learning.reduction).to(device).eval()
    head = make_base_learner(config.head, config.ridge, config.cost, config.code)
    sampler = make_sampler(config, tensors["labels"].tolist(), context.seed)
    accuracies = episode_accuracies(
        classifier(head, attention, config.psm_rounds),
        tensors["features"].to(device),
        sampler,
        episodes=config.episodes,
        device=device,
    )
    return {"accuracy": Scores(tuple(accuracies.tolist()), unit="episode")}


def make_sampler(config: PaperConfig, labels: Sequence[int], seed: int) -> EpisodeSampler:
    """The test episodes that a config asks for, over test images with these labels."""
    if config.protocol == "as-published":
        return PublishedSampler(labels, config.n_way, config.n_shot, config.n_query)
    if config.queries == "dirichlet":
        return ImbalancedSampler(
            labels, config.n_way, config.n_shot, config.n_query, seed, concentration=config.concentration
        )
    return EpisodeSampler(labels, config.n_way, config.n_shot, config.n_query, seed)


def paper_data(config: PaperConfig) -> Sequence[Passport]:
    """The datasets that a config needs."""
    own = DATASETS[config.dataset]
    return (own, PLACES365) if config.initialisation == "places365" else (own,)


PAPER = Recipe(
    config=PaperConfig,
    run=run_paper,
    data=paper_data,
    describe="the paper's experiments on CIFAR-FS and mini-ImageNet, pre-trained on Places365",
)
