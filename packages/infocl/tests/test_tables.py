"""Table files of the paper's experiments: every cell is a config that means what its place says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from infocl.paper import PAPER, PaperConfig
from infocl.passports import DATASETS
from sextet.recipe import plain

TABLES = Path(__file__).parents[3] / "benchmarks" / "tables" / "infocl"
FILES = {path.stem: path for path in sorted(TABLES.glob("*.yaml")) if path.stem.startswith(("table", "figure"))}
PRETRAINED = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL-10", "imagenet": "ImageNet"}


def cells(name: str) -> dict[str, PaperConfig]:
    content = yaml.safe_load(FILES[name].read_text())
    (profile,) = content["profiles"].values()
    assert profile["recipe"] == "infocl-paper"
    found = {}
    for row in content["rows"]:
        for column in content["columns"]:
            if column["id"] not in row.get("skip", ()):
                values = {**profile.get("config", {}), **column["config"], **row["config"]}
                found[f"{row['id']}/{column['id']}"] = PAPER.configure(values)
    return found


def test_there_is_one_for_every_table_and_figure():
    assert set(FILES) == {
        "table1-cifar10", "table1-stl10", "table1-imagenet", "table2a-voc-detection", "table2b-coco-detection",
        "table2c-coco-segmentation", "table3", "table4-cifar10", "table4-cifar100", "table5-cifar10", "table5-stl10",
        "figure4", "figure5", "table1-cifar10-open", "table3-open", "table4-cifar10-open", "table5-cifar10-open",
    }  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_cells_are_configs_and_no_two_are_the_same(name):
    configs = cells(name)
    assert len({json.dumps(plain(config)) for config in configs.values()}) == len(configs)
    content = yaml.safe_load(FILES[name].read_text())
    assert content["metric"] == "accuracy"
    assert all(claim["left"] in configs and claim["right"] in configs for claim in content["claims"])
    assert not any(claim.get("gate") for claim in content["claims"])
    assert len(next(iter(content["profiles"].values()))["seeds"]) >= 3


@pytest.mark.parametrize("name", FILES)
def test_cells_are_pre_trained_on_what_the_table_is_of(name):
    for cell, config in cells(name).items():
        words = {*name.split("-"), *cell.partition("/")[0].split("-")} & set(PRETRAINED)
        expected = {PRETRAINED[word] for word in words} or {"ImageNet" if name.startswith("table2") else "CIFAR10"}
        assert {config.data} == expected
        assert config.epochs == (600 if name == "figure5" else 200)
        assert config.pretraining().arch == ("resnet50" if config.data == "ImageNet" else "resnet18")


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("table1", "table3", "table4", "table5"))])
def test_only_the_published_protocol_is_compared_with_the_paper(name):
    content, configs = yaml.safe_load(FILES[name].read_text()), cells(name)
    for row in content["rows"]:
        for column in row.get("numbers", {}):
            assert configs[f"{row['id']}/{column}"].protocol == "as-published"
    assert {config.protocol for config in configs.values()} == {"ours", "as-published", "converged"}
    if name.endswith("-open"):
        named = {dataset for config in configs.values() for dataset in config.datasets}
        assert {DATASETS[dataset].passport.name for dataset in named} == {"cifar10", "mnist", "fashion-mnist"}
        assert list(content["profiles"]) == ["gpu"]


def test_a_few_numbers_of_the_paper():
    found = {name: yaml.safe_load(path.read_text()) for name, path in FILES.items()}

    def number(name, row, column):
        return next(entry for entry in found[name]["rows"] if entry["id"] == row)["numbers"][column]

    assert number("table1-cifar10", "byol-lbe", "flowers-best") == 54.10
    assert number("table1-stl10", "simclr-rc", "signs-best") == 94.73
    assert number("table1-imagenet", "simclr", "cifar100-best") == 59.86
    assert number("table3", "simclr-mib", "cifar10-best") == 86.20
    assert number("table4-cifar100", "supervised", "cub-best") == 11.51
    assert number("table5-stl10", "barlow-lbe", "dtd-best") == 37.32
    # Section 9: means computed from Table 1
    means = [number("table1-cifar10", row, "mean-best") for row in ("simclr", "simclr-rc", "simclr-lbe", "byol")]
    assert means == pytest.approx([59.83, 63.81, 63.56, 59.87], abs=0.011)
    assert number("table1-cifar10", "simclr-noise", "mean-best") == pytest.approx(60.54, abs=0.011)
