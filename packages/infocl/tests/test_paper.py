"""The paper's recipe from end to end, on small data laid out as the official data, with a small network."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from infocl_testing.tiny_data import toy_datasets
from torch.multiprocessing import ProcessRaisedException

import infocl.paper
import infocl.transfer
from infocl.augmentation import Augmentation, Views
from infocl.crop_probe import CROPS, CropProbeConfig, crop_probe, following_of
from infocl.detection_export import DETECTION
from infocl.networks import SmallEncoder
from infocl.paper import PAPER, TRANSFER, PaperConfig, encoder_stage, paper_data
from infocl.passports import DATASETS
from infocl.photograph_views import PhotographViews
from infocl.preprocessing import STATISTICS
from infocl.pretraining import SIDES, PretrainingConfig, load_encoder, make_encoder, make_method, pretrain
from infocl.stored_images import images_of
from infocl.training import TrainingConfig, batch_rows, epoch_order
from sextet.checkpoint import load_foreign
from sextet.data import DataError, DataMissing, load
from sextet.recipe import RunContext
from sextet.training import read_log

CPU = torch.device("cpu")
TOY = {"arch": "small", "epochs": 2, "batch_size": 8, "probe_epochs": 3, "probe_batch_size": 4, "processes": 1}


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """Tiny datasets, adopted once: entries by name and the folder they lie in."""
    folder = tmp_path_factory.mktemp("toy")
    return toy_datasets(folder / "raw", folder / "root"), folder / "root"


@pytest.fixture
def run(toy, tmp_path, monkeypatch):
    """Run one cell."""
    for key, entry in toy[0].items():
        monkeypatch.setitem(DATASETS, key, entry)

    def go(folder="run", seed=0, **values):
        context = RunContext(
            tmp_path / folder, tmp_path / folder / "stages", seed, device="cpu", data_root=toy[1], progress=False
        )
        return PAPER.run(PAPER.configure({**TOY, **values}), context)["accuracy"]

    return go


@pytest.mark.parametrize(
    ("method", "regulariser"), [("simclr", "none"), ("byol", "rc"), ("barlow", "lbe"), ("supervised", "rc")]
)
def test_every_method(run, method, regulariser):
    scores = run(method=method, regulariser=regulariser, epochs=1)
    assert len(scores.values) == 16
    assert set(scores.values) <= {0.0, 1.0}


@pytest.mark.parametrize("regulariser", ["noise", "ip"])
def test_what_table_3_adds(run, regulariser):
    assert len(run(regulariser=regulariser, epochs=1).values) == 16


def test_the_transfer_suite(run):
    """One score a dataset; the same as the datasets one by one, from one run of pre-training."""
    mean = run(evaluate_on="transfer")
    assert (len(mean.values), mean.unit) == (6, "dataset")
    for dataset in ("mnist", "traffic_sign"):
        assert mean.values[TRANSFER.index(dataset)] == pytest.approx(run(evaluate_on=dataset).mean)


def test_pre_training_is_shared(run, tmp_path):
    for protocol in infocl.paper.PROTOCOLS:
        assert len(run(protocol=protocol).values) == 16
    run(evaluate_on="mnist")
    assert len(list((tmp_path / "run/stages").glob("encoder-*"))) == 1
    assert len(list((tmp_path / "run/stages").glob("features-*"))) == 2


def test_features_tell_the_classes_of_bright_and_dark_images(run):
    """With images whose classes differ in brightness, which no view loses, the converged probe finds some of it."""
    assert run(protocol="converged").mean > 0.4


def test_the_protocols(run, monkeypatch):
    """As published: the best of all epochs; ours: the last one."""
    table = torch.zeros(3, 16, dtype=torch.bool)
    table[1, :5] = table[2, :2] = True
    monkeypatch.setattr(infocl.paper, "reference_hits", lambda *_: table)
    assert sum(run(protocol="as-published").values) == 5
    assert sum(run(protocol="ours").values) == 2


def test_stl10_is_pre_trained_on_its_unlabelled_images_and_probed_at_96(run, monkeypatch):
    sides = []
    encode = infocl.transfer.encode_photographs
    monkeypatch.setattr(infocl.transfer, "encode_photographs", lambda *a, **k: (sides.append(a[2]), encode(*a, **k))[1])
    assert len(run(data="STL-10", regulariser="rc", epochs=1).values) == 8
    run(data="STL-10", regulariser="rc", epochs=1, evaluate_on="dtd")
    assert sides == [96, 96, 64, 64]


@pytest.mark.parametrize("evaluate_on", ["source", "CIFAR100"])
def test_imagenet(run, evaluate_on, monkeypatch):
    """Photographs decoded on the way, random crops for the probe, LARS as published; at 64 pixels."""
    monkeypatch.setitem(SIDES, "ImageNet", 64)
    values = {"data": "ImageNet", "epochs": 1, "batch_size": 4, "probe_epochs": 2, "evaluate_on": evaluate_on}
    scores = run(**values, regulariser="rc")
    assert len(scores.values) == {"source": 12, "CIFAR100": 16}[evaluate_on]
    assert run(**values, regulariser="rc", protocol="as-published").mean >= scores.mean
    assert len(run(**values, regulariser="rc", protocol="converged").values) == len(scores.values)


@pytest.mark.slow
def test_imagenet_at_its_own_size(run):
    values = {"data": "ImageNet", "epochs": 1, "batch_size": 4, "probe_epochs": 1}
    assert len(run(**values, regulariser="lbe", evaluate_on="dtd").values) == 6


def test_everything_is_decided_by_config_and_seed(run, tmp_path):
    def go(folder, seed):
        scores = run(folder=folder, seed=seed, evaluate_on="dtd", regulariser="lbe", epochs=1)
        (file,) = (tmp_path / folder / "stages").glob("features-*/features.safetensors")
        return scores, file.read_bytes()

    first = go("a", 0)
    assert go("b", 0) == first
    assert go("c", 1)[1] != first[1]


def test_checkpoints_on_the_way(run, tmp_path, toy):
    """Figure 5: one long run, looked at several times."""
    for epoch in (1, 2, 3):
        run(epochs=3, checkpoints=[1, 2], at_epoch=epoch)
    (folder,) = (tmp_path / "run/stages").glob("encoder-*")
    encoders = [load_foreign(folder / f"encoder-{epoch}.safetensors") for epoch in (1, 2, 3)]
    assert not torch.equal(encoders[0]["stem.0.weight"], encoders[1]["stem.0.weight"])
    short = PAPER.configure({**TOY, "epochs": 1})
    context = RunContext(tmp_path, tmp_path / "short", 0, device="cpu", data_root=toy[1])
    alone = load_foreign(encoder_stage(short, context).file)
    assert all(torch.equal(alone[name], encoders[0][name]) for name in alone)


def test_detection_waits_for_detectron2(run, tmp_path, monkeypatch):
    monkeypatch.setitem(SIDES, "ImageNet", 32)
    values = {"data": "ImageNet", "epochs": 1, "batch_size": 4, "arch": "resnet18", "evaluate_on": "voc"}
    with pytest.raises(DataMissing, match="--config-file") as caught:
        run(**values)
    (folder,) = (tmp_path / "run/stages").glob("encoder-*/detection-1/*")
    assert str(folder) in str(caught.value)
    assert str(folder / "encoder.pkl") in (folder / DETECTION["voc"].config).read_text()
    lines = [{"iteration": 9, "bbox/AP": 1.0}, {"total_loss": 0.1}, {"bbox/AP": 53.5, "bbox/AP50": 81.25}]
    (folder / "metrics.json").write_text("\n".join(json.dumps(line) for line in lines))
    assert run(**values).mean == pytest.approx(0.535)
    assert run(**values, detection="AP50").mean == pytest.approx(0.8125)
    with pytest.raises(DataError, match="bbox/AP75"):
        run(**values, detection="AP75")


def test_only_what_is_needed_is_asked_for():
    names = [p.name for p in paper_data(PaperConfig(data="STL-10", evaluate_on="transfer"))]
    assert names == [
        "stl10", "infocl-dtd", "mnist", "fashion-mnist", "infocl-cub", "infocl-flowers", "infocl-traffic-signs",
    ]  # fmt: skip
    assert [p.name for p in paper_data(PaperConfig())] == ["cifar10"]


def test_published_settings():
    found = {
        (method, data, kind): PaperConfig(method=method, data=data, regulariser=kind).pretraining()
        for method, data in infocl.paper.PUBLISHED
        for kind in ("rc", "lbe")
    }
    weights = {key[:2]: [] for key in found}
    for (method, data, _), config in found.items():
        weights[method, data].append(config.training.weight)
    assert weights == {
        ("simclr", "CIFAR10"): [1, 1], ("simclr", "STL-10"): [1, 1], ("simclr", "ImageNet"): [0.1, 1],
        ("byol", "CIFAR10"): [0.1, 0.1], ("byol", "STL-10"): [0.1, 0.1], ("barlow", "CIFAR10"): [1, 1],
        ("barlow", "STL-10"): [1, 1], ("supervised", "CIFAR10"): [0.001, 0.1], ("supervised", "CIFAR100"): [0.01, 1],
    }  # fmt: skip
    small = PaperConfig().pretraining().training
    assert (small.optimizer, small.lr, small.schedule, small.weight_decay) == ("adam", 3e-4, "constant", 0)
    large = found["simclr", "ImageNet", "lbe"]
    assert (large.training.lr, large.training.batch_size, large.processes) == (1.2, 1024, 4)
    assert (large.rho, large.stage_weights) == (0.0125, (0, 0, 1))
    assert found["supervised", "CIFAR10", "lbe"].sigma == 0.01
    assert PaperConfig(regulariser="mib").pretraining().training.weight == 5e-4


def test_sizes_of_the_published_networks():
    with torch.device("meta"):
        assert (
            sum(p.numel() for p in make_encoder(PaperConfig(data="ImageNet").pretraining()).parameters()) == 23_508_032
        )
        model = make_method(PaperConfig(method="barlow").pretraining())
        assert sum(p.numel() for p in model.parameters()) == 11_957_824
        model = make_method(PaperConfig(data="STL-10", regulariser="rc").pretraining())
        assert sum(p.numel() for p in model.decoder.parameters()) == 1_646_979


# Views of photographs


def photographs(toy, key, split="train"):
    entry = toy[0][key]
    return images_of(load(entry.passport, toy[1]), split, entry.classes)


def test_views_of_photographs_are_those_of_images_in_memory(toy):
    """The same crops, mirrors and colours, but for what PIL rounds to 8 bits before colours change."""
    images = photographs(toy, "dtd")
    mean, std = STATISTICS["ImageNet"]
    plain = Augmentation(size=12, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    rows = torch.tensor([3, 0, 7])
    lazy = PhotographViews(images, plain, seed=5, mean=mean, std=std, device=CPU, threads=2)
    pixels = [torch.from_numpy(np.array(images[row])) for row in range(len(images))]
    held = Views(pixels, plain, seed=5, mean=mean, std=std)
    for one, other in zip(lazy.views(rows, 4), held.views(rows, 4), strict=True):
        assert one.shape == (3, 3, 12, 12)
        assert float((one - other).abs().max()) < 0.06
        assert float((one - other).abs().mean()) < 0.01


def test_decoding_ahead_changes_nothing(toy):
    images, (mean, std) = photographs(toy, "dtd"), STATISTICS["ImageNet"]
    settings = {"seed": 1, "mean": mean, "std": std, "device": CPU, "threads": 2, "count": 1, "labels": True}
    following = following_of(12, 5, seed=3, epochs=2)
    ahead = PhotographViews(images, replace(CROPS, size=8), following=following, **settings)
    plain = PhotographViews(images, replace(CROPS, size=8), **settings)
    seen = []
    step = (batch_rows(12, 5, 3, 0), 0)
    while step is not None:
        seen.append(step[1])
        assert torch.equal(ahead.views(*step)[0], plain.views(*step)[0])
        step = following(*step)
    assert seen == [0, 0, 1, 1]
    assert ahead.labels.tolist() == images.labels.tolist()


def test_each_process_decodes_its_own_share_ahead():
    shares = [following_of(12, 4, seed=3, epochs=2, rank=rank, processes=2) for rank in (0, 1)]
    order = epoch_order(12, 3, 0)
    for rank, following in enumerate(shares):
        rows, epoch = following(order[:4].chunk(2)[rank], 0)
        assert torch.equal(rows, order[4:8].chunk(2)[rank])
        rows, epoch = following(order[8:].chunk(2)[rank], 0)
        assert epoch == 1
        assert torch.equal(rows, epoch_order(12, 3, 1)[:4].chunk(2)[rank])


@pytest.mark.parametrize("stop", [1, 5])
def test_the_probe_on_crops_continues_where_it_was(toy, tmp_path, stop):
    mean, std = STATISTICS["dtd"]

    class Stops(PhotographViews):
        calls = 0

        def views(self, rows, epoch):
            self.calls += 1
            if self.calls > stop:
                raise RuntimeError("power cut")
            return super().views(rows, epoch)

    def probe(folder, kind):
        torch.manual_seed(0)
        encoder = SmallEncoder(3, (2, 3, 4, 5))
        images = photographs(toy, "dtd")
        views = kind(images, replace(CROPS, size=16), seed=0, mean=mean, std=std, device=CPU, count=1, labels=True)
        test = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
        config = CropProbeConfig(epochs=3, batch_size=4, save_every=2)
        return crop_probe(encoder, views, test, 3, config, tmp_path / folder, seed=0, device=CPU, title=None)

    whole = probe("whole", PhotographViews)
    assert whole.shape == (3, 6)
    with pytest.raises(RuntimeError, match="power cut"):
        probe("halves", Stops)
    assert torch.equal(probe("halves", PhotographViews), whole)


@pytest.mark.slow
def test_two_processes_share_a_batch(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = PretrainingConfig(
        data="STL-10", arch="small", regulariser="lbe", processes=2, training=TrainingConfig(epochs=2, batch_size=4)
    )
    pretrain(config, tmp_path, seed=0, device="cpu", root=toy[1])
    assert len(read_log(tmp_path)) == 4
    encoder = load_encoder(config, tmp_path / "encoder-2.safetensors")
    assert all(bool(value.isfinite().all()) for value in encoder.state_dict().values())
    with pytest.raises(ProcessRaisedException, match="DataMissing"):
        pretrain(config, tmp_path / "nothing", seed=0, device="cpu", root=tmp_path / "no data")


@pytest.mark.parametrize(("values", "message"), [
    ({"data": "SVHN"}, "expected one of simclr on CIFAR10"),
    ({"method": "byol", "data": "ImageNet"}, "got byol on ImageNet"),
    ({"regulariser": "vib"}, "regulariser: expected"),
    ({"evaluate_on": "food"}, "evaluate_on: expected"),
    ({"evaluate_on": "voc"}, "goes with pre-training on ImageNet"),
    ({"protocol": "best"}, "protocol: expected"),
    ({"at_epoch": 100}, "at_epoch: expected"),
    ({"checkpoints": (300,)}, "checkpoints: expected"),
    ({"arch": "vgg"}, "arch: expected"),
])  # fmt: skip
def test_configs_that_make_no_sense(values, message):
    with pytest.raises(ValueError, match=message):
        PaperConfig(**values)
