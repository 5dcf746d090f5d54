"""The config of the paper's experiments: what a cell is, and every published quirk as a switch with a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

from cdfsl_ata.evaluation import BnMode
from cdfsl_ata.networks import HEADS, GraphQueries, NetworkConfig, Objective, SupportOrder
from cdfsl_ata.paper_data import SOURCES, TARGETS
from cdfsl_ata.photographs import AugmentationConfig
from cdfsl_ata.samplers import PUBLISHED_MINIMUM
from cdfsl_ata.training import AscentConfig, MetaTrainingConfig, PretrainingConfig
from cdfsl_ata.tuned_evaluation import PseudoOrder, TunedMode, TuningConfig
from sextet.cuda import Precision

LINEAR = "linear"
METHODS = ("none", "ft", "lrp", "ata", "nr", "euclid", "mmd")
TRAINED_AT_FIVE = ("matching", "relation", "tpn")
TestStatistics = Literal["published", "eval", "episode"]
TrainShots = Literal["published", "same"]


@dataclass(frozen=True)
class Quirks:
    """What the published code does that one would not expect. None stands for the preset's value.

    Attributes:
        bn_mode: statistics in the test: `published` is those of training, for TPN those of the episode; or `eval` or
            `episode` for all heads.
        support_order: `published` or `correct` order of MatchingNet's backward pass.
        graph_queries: `published`, one query of each class in a graph of the GNN, or `independent`.
        pseudo_order: `published` or `support-first` order of a pseudo episode in fine-tuning.
        tuned_mode: in which fine-tuned learners are tested: `train` as published, or `eval`.
        train_shots: `published` trains MatchingNet, RelationNet and TPN with 5 shots for any test; or `same`.
        pad_small_classes: classes of fewer images are repeated to so many in the test; 50 as published, 0 for never.
    """

    bn_mode: TestStatistics | None = None
    support_order: SupportOrder | None = None
    graph_queries: GraphQueries | None = None
    pseudo_order: PseudoOrder | None = None
    tuned_mode: TunedMode | None = None
    train_shots: TrainShots | None = None
    pad_small_classes: int | None = None


PRESETS: Mapping[str, Quirks] = {
    "as-published": Quirks("published", "published", "published", "published", "train", "published", PUBLISHED_MINIMUM),
    "clean": Quirks("eval", "correct", "independent", "support-first", "eval", "same", 0),
}
_KNOWN: Mapping[str, tuple[str, ...]] = {
    "bn_mode": get_args(TestStatistics),
    "support_order": get_args(SupportOrder),
    "graph_queries": get_args(GraphQueries),
    "pseudo_order": get_args(PseudoOrder),
    "tuned_mode": get_args(TunedMode),
    "train_shots": get_args(TrainShots),
}


@dataclass(frozen=True)
class Ascent:
    """What the paper sets for a method; the step size is TPN's own with ATA."""

    step_size: float = 80.0
    p_original: float = 1.0
    regulariser: str = "none"


ASCENTS: Mapping[str, Ascent] = {
    "ata": Ascent(p_original=0.5),
    "nr": Ascent(),
    "euclid": Ascent(step_size=40.0, regulariser="euclid"),
    "mmd": Ascent(regulariser="mmd"),
}
TPN_ATA = Ascent(step_size=20.0, p_original=0.6)


@dataclass(frozen=True)
class PaperConfig:
    """One cell of the paper's tables. None stands for the published value.

    Attributes:
        source: `mini-imagenet`, or `cifar10-rotations`.
        domain: of the test: `cub`, `cars`, `places`, `plantae`, `crop-diseases`, `eurosat`, `isic`, `chestx`,
            `mini-imagenet`; the open `fashion-mnist`, `mnist`, `digits`, `glyphs`; or `source-validation`, on which
            settings are to be chosen.
        encoder, image_size, stem_pool, objective: see `NetworkConfig`.
        head: `proto`, `matching`, `relation`, `gnn`, `tpn`; or `linear`: the pre-trained encoder and a fresh linear
            layer are fine-tuned to every task, without meta-training.
        method: of meta-training: `none`, `ft`, `lrp`, `ata`, and its ascent alone (`nr`) or regularised (`euclid`,
            `mmd`).
        fine_tune: whether the meta-trained learner is fine-tuned to every task.
        pretrained: a published checkpoint of a pre-trained encoder to start from; empty to pre-train.
        n_way, n_shot, n_query, episodes: the test episodes; their seed is the run's.
        steps, step_size, p_original, normalise: of the ascent; published are 5 steps of 80 and 0.5 (TPN: 20 and 0.6),
            Euclid 40.
        preset: `as-published` or `clean`: what `quirks` leaves open.
        quirks: see there.
        train_shot: shots of the training episodes; None for what the quirk `train_shots` says.
        train_query, epochs, episodes_per_epoch, lr: of meta-training.
        val_episodes: after every epoch, on the source's validation classes; the best epoch is tested.
        pretraining, augmentation, tuning: see there. The orders and modes of `tuning` are those of `quirks`.
        enlarge: test images are resized to so many times `image_size` before their middle is cut out.
        precision: of all computations.
    """

    source: str = "mini-imagenet"
    domain: str = "cub"
    encoder: str = "ResNet10"
    image_size: int = 224
    stem_pool: bool = True
    head: str = "gnn"
    objective: Objective = "mse"
    method: str = "none"
    fine_tune: bool = False
    pretrained: str = ""
    n_way: int = 5
    n_shot: int = 5
    n_query: int = 16
    episodes: int = 2000
    steps: int = 5
    step_size: float | None = None
    p_original: float | None = None
    normalise: bool = False
    preset: str = "as-published"
    quirks: Quirks = field(default_factory=Quirks)
    train_shot: int | None = None
    train_query: int = 16
    epochs: int = 400
    episodes_per_epoch: int = 100
    lr: float = 1e-3
    val_episodes: int = 100
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    enlarge: float = 1.15
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        choices = {
            "source": SOURCES, "domain": TARGETS, "head": (*HEADS, LINEAR), "method": METHODS, "preset": tuple(PRESETS),
            "objective": get_args(Objective),
        }  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name, known in _KNOWN.items():
            value = getattr(self.quirks, name)
            if value is not None and value not in known:
                raise ValueError(f"quirks.{name}: expected one of {', '.join(known)}, got {value!r}")
        if self.method == "lrp" and (self.head not in ("relation", "gnn") or self.settled.graph_queries != "published"):
            raise ValueError("method: lrp is defined for relation, and for gnn with graph_queries published")
        if self.head == LINEAR and (self.method, self.fine_tune) != ("none", False):
            raise ValueError("head: linear has no meta-training; leave method and fine_tune as they are")

    @property
    def settled(self) -> Quirks:
        """The quirks with the preset's values filled in."""
        chosen = {name: value for name, value in asdict(self.quirks).items() if value is not None}
        return replace(PRESETS[self.preset], **chosen)

    @property
    def network(self) -> NetworkConfig:
        """Encoder and head; the linear classifier's encoder is that of a head on vectors."""
        quirks = self.settled
        return NetworkConfig(
            encoder=self.encoder,
            image_size=self.image_size,
            stem_pool=self.stem_pool,
            head="proto" if self.head == LINEAR else self.head,
            n_way=self.n_way,
            objective=self.objective,
            support_order=quirks.support_order or "published",
            graph_queries=quirks.graph_queries or "published",
        )

    @property
    def meta(self) -> MetaTrainingConfig:
        """Meta-training, with the shots of its episodes."""
        published = 5 if self.head in TRAINED_AT_FIVE else self.n_shot
        shots = published if self.settled.train_shots == "published" else self.n_shot
        return MetaTrainingConfig(
            n_way=self.n_way,
            n_support=shots if self.train_shot is None else self.train_shot,
            n_query=self.train_query,
            epochs=self.epochs,
            episodes_per_epoch=self.episodes_per_epoch,
            lr=self.lr,
        )

    @property
    def ascent(self) -> AscentConfig | None:
        """Settings of the plug-in; None for methods without it."""
        if self.method not in ASCENTS:
            return None
        published = TPN_ATA if (self.head, self.method) == ("tpn", "ata") else ASCENTS[self.method]
        return AscentConfig(
            steps=self.steps,
            step_size=published.step_size if self.step_size is None else self.step_size,
            p_original=published.p_original if self.p_original is None else self.p_original,
            regulariser=published.regulariser,
            normalise=self.normalise,
            precision=self.precision,
        )

    @property
    def settled_tuning(self) -> TuningConfig:
        """Fine-tuning, in the order and mode of the quirks."""
        quirks = self.settled
        return replace(self.tuning, order=quirks.pseudo_order or "published", mode=quirks.tuned_mode or "train")

    @property
    def bn_mode(self) -> BnMode:
        """Statistics in the test."""
        if self.settled.bn_mode == "published":
            return "episode" if self.head == "tpn" else "eval"
        return "episode" if self.settled.bn_mode == "episode" else "eval"
