"""What a cell of the paper's tables asks for, and whether every table says it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from cdfsl_ata import AdversarialTaskAugmenter
from cdfsl_ata.networks import NetworkConfig, make_encoder, make_learner
from cdfsl_ata.paper import PAPER, run_paper
from cdfsl_ata.paper_config import PRESETS, PaperConfig, Quirks
from cdfsl_ata.paper_data import passports
from sextet.data import DataMissing
from sextet.recipe import RunContext

TABLES = Path(__file__).parents[3] / "benchmarks/tables/cdfsl-ata"


def test_published_settings_are_filled_in():
    def ascent(**values):
        found = PaperConfig(**values).ascent
        return (found.steps, found.step_size, found.p_original, found.regulariser)

    assert ascent(head="gnn", method="ata") == (5, 80.0, 0.5, "none")
    assert ascent(head="tpn", method="ata") == (5, 20.0, 0.6, "none")
    assert ascent(head="gnn", method="nr") == (5, 80.0, 1.0, "none")
    assert ascent(head="gnn", method="euclid") == (5, 40.0, 1.0, "euclid")
    assert ascent(head="gnn", method="mmd") == (5, 80.0, 1.0, "mmd")
    assert ascent(head="relation", method="ata", step_size=20.0, p_original=0.6)[1:3] == (20.0, 0.6)
    assert PaperConfig(method="none").ascent is None
    shots = {
        (head, shot): PaperConfig(head=head, n_shot=shot).meta.n_support
        for head in ("proto", "matching", "relation", "gnn", "tpn")
        for shot in (1, 5)
    }
    assert [shots[head, 1] for head in ("matching", "relation", "tpn")] == [5, 5, 5]
    assert [shots[head, shot] for head in ("proto", "gnn") for shot in (1, 5)] == [1, 5, 1, 5]
    modes = {head: PaperConfig(head=head).bn_mode for head in ("relation", "gnn", "tpn")}
    assert modes == {"relation": "eval", "gnn": "eval", "tpn": "episode"}
    meta, pre = PaperConfig().meta, PaperConfig().pretraining
    assert (meta.epochs, meta.episodes_per_epoch, meta.n_query, meta.lr) == (400, 100, 16, 1e-3)
    assert (pre.steps, pre.batch_size, pre.outputs) == (400 * 38_400 // 16, 16, 200)
    assert isinstance(PaperConfig(method="ata").ascent.augmenter(make_toy()), AdversarialTaskAugmenter)


def make_toy():
    return make_learner(NetworkConfig("Conv4", 32, head="proto"), 1)


def test_every_quirk_has_a_switch():
    """The presets say something of every one, never the same; a switch changes what its name says and nothing else."""
    published, clean = PRESETS["as-published"], PRESETS["clean"]
    names = list(Quirks.__dataclass_fields__)
    assert all(None not in (getattr(p, name) for p in (published, clean)) for name in names)
    assert all(getattr(published, name) != getattr(clean, name) for name in names)
    assert PaperConfig().settled == published
    assert PaperConfig(preset="clean").settled == clean
    assert PaperConfig(preset="clean", quirks=Quirks(bn_mode="episode")).settled == replace(clean, bn_mode="episode")
    config = PaperConfig(preset="clean", head="tpn", n_shot=1)
    assert config.bn_mode == "eval"
    assert config.meta.n_support == 1
    assert (config.settled_tuning.order, config.settled_tuning.mode) == ("support-first", "eval")
    assert (config.network.support_order, config.network.graph_queries) == ("correct", "independent")


def test_data_that_is_not_there_says_what_to_get(tmp_path):
    context = RunContext(tmp_path / "run", tmp_path / "stages", 0, device="cpu", data_root=tmp_path / "none")
    with pytest.raises(DataMissing, match=r"(?s)Plantae .* is not in .*plantae\.tar\.gz"):
        run_paper(PaperConfig(domain="plantae"), context)


def test_passports_of_a_cell():
    assert [p.name for p in passports("mini-imagenet", "cub")] == ["cdfsl-mini-imagenet", "cdfsl-cub"]
    assert [p.name for p in passports("mini-imagenet", "mini-imagenet")] == ["cdfsl-mini-imagenet"]
    assert [p.name for p in passports("cifar10-rotations", "mnist")] == ["cifar10", "mnist"]
    assert [p.name for p in passports("cifar10-rotations", "source-validation")] == ["cifar10"]
    assert PAPER.data(PaperConfig(domain="isic")) == passports("mini-imagenet", "isic")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "imagenet"}, "source: expected one of mini-imagenet, cifar10-rotations"),
        ({"domain": "birds"}, "domain: expected one of mini-imagenet, cub"),
        ({"head": "maml"}, "head: expected one of"),
        ({"method": "afa"}, "method: expected one of"),
        ({"preset": "ours"}, "preset: expected one of as-published, clean"),
        ({"quirks": {"bn_mode": "train"}}, r"quirks\.bn_mode: expected one of published, eval, episode"),
        ({"head": "tpn", "method": "lrp"}, "lrp is defined for relation"),
        ({"head": "gnn", "method": "lrp", "preset": "clean"}, "graph_queries published"),
        ({"head": "linear", "method": "ata"}, "linear has no meta-training"),
        ({"head": "linear", "fine_tune": True}, "linear has no meta-training"),
        ({"fine_tuning": True}, "did you mean fine_tune"),
    ],
)
def test_configs_that_make_no_sense(values, message):
    with pytest.raises(ValueError, match=message):
        PAPER.configure(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder": "ResNet12"}, "encoder: expected ResNet10"),
        ({"head": "linear"}, "head: expected one of"),
        ({"head": "relation", "image_size": 64}, "RelationNet needs maps of at least 4 x 4, ResNet10 makes 2 x 2"),
    ],
)
def test_networks_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        make_learner(NetworkConfig(**values), 1)


def test_timm_encoders_by_name():
    pytest.importorskip("timm")
    learner = make_learner(NetworkConfig("timm/test_resnet", 64, head="gnn"), 1)
    assert learner.scores(torch.randn(5, 2, 3, 64, 64)).shape == (5, 5)
    with pytest.raises(ValueError, match="feature-wise transformations are for"):
        make_encoder(NetworkConfig("timm/resnet10t", 64), transform=True)


NAMES = (
    "cdfsl-1shot", "cdfsl-5shot", "cdfsl-finetune-1shot", "cdfsl-finetune-5shot", "cdfsl-ablation", "cdfsl-bn",
    "cdfsl-bscd", "cdfsl-open", "cdfsl-verified", "cdfsl-grid",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_of_the_tables_has_a_config(name):
    content = yaml.safe_load((TABLES / f"{name}.yaml").read_text())
    assert content["name"] == name
    (profile,) = content["profiles"].values()
    assert profile["recipe"] == "cdfsl-ata-paper"
    assert set(profile["config"]["quirks"]) == set(Quirks.__dataclass_fields__)
    cells = {}
    for row in content["rows"]:
        for column in content["columns"]:
            if column["id"] not in row.get("skip", ()):
                values = {**profile["config"], **column.get("config", {}), **row.get("config", {})}
                cells[f"{row['id']}/{column['id']}"] = PAPER.configure(values)
    assert len({str(config) for config in cells.values()}) == len(cells)
    assert all(claim["left"] in cells and claim["right"] in cells for claim in content.get("claims", ()))
    assert not any(claim.get("gate") for claim in content.get("claims", ()))


def test_the_tables_have_every_number_of_the_spec():
    """Counted against the rows that were recalled: 11 rows at each shot, 3 fine-tuned, 8 domains."""
    counts = {}
    for name in NAMES:
        content = yaml.safe_load((TABLES / f"{name}.yaml").read_text())
        counts[name] = sum(len(row.get("numbers", {})) for row in content["rows"])
    assert counts["cdfsl-1shot"] == counts["cdfsl-5shot"] == 88
    assert counts["cdfsl-finetune-1shot"] == counts["cdfsl-finetune-5shot"] == 24
    assert counts["cdfsl-ablation"] == 8
    assert counts["cdfsl-verified"] == 2 * (8 + 4)
