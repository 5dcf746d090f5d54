from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from cdfsl_ata import ConvNet, FeatureWiseTransform, Gnn, MatchingNet, ProtoNet, RelationNet, ResNet, Tpn
from cdfsl_ata.checkpoints import export_encoder, load_published, read_published, write_published
from sextet.checkpoint import CheckpointError

LEARNERS = {
    "gnn": lambda: Gnn(ResNet(), 5),
    "relation": lambda: RelationNet(ConvNet(4, maps=True), 5, channels=64, size=5),
    "tpn": lambda: Tpn(ConvNet(4, maps=True), 5, channels=64, size=5),
    "matching": lambda: MatchingNet(ConvNet(4), 5, dim=256),
}


def equal(first, second):
    return all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize("name", LEARNERS)
def test_what_is_written_is_read(tmp_path, name):
    before, after = LEARNERS[name](), LEARNERS[name]()
    assert not equal(before, after)
    write_published(before, tmp_path / "best_model.tar", epoch=37)
    loaded = load_published(after, read_published(tmp_path / "best_model.tar"))
    assert equal(before, after)
    assert loaded.missing == loaded.ignored == ()
    assert set(loaded.loaded) == set(before.state_dict())


def test_names_are_the_published_ones(tmp_path):
    """Convolution blocks have each layer twice there; residual blocks do not."""
    write_published(LEARNERS["relation"](), tmp_path / "a.tar", 0)
    content = torch.load(tmp_path / "a.tar", weights_only=True)
    assert content["epoch"] == 0
    state = content["state"]
    for name, twin in (
        ("feature.trunk.0.C.weight", "feature.trunk.0.trunk.0.weight"),
        ("feature.trunk.3.BN.running_var", "feature.trunk.3.trunk.1.running_var"),
        ("relation_module.layer2.BN.bias", "relation_module.layer2.trunk.1.bias"),
    ):
        assert torch.equal(state[name], state[twin])
    write_published(LEARNERS["gnn"](), tmp_path / "b.tar", 0)
    names = set(torch.load(tmp_path / "b.tar", weights_only=True)["state"])
    assert {"feature.trunk.4.C1.weight", "feature.trunk.5.BNshortcut.weight", "gnn.layer_w0.conv2d_1.weight"} <= names
    assert not any(".trunk.0.trunk" in name for name in names)


def test_an_encoder_out_of_pre_training(tmp_path):
    """399.tar: the encoder below `feature.`, and a classifier that is left over; old files have no counters."""
    pretrained = nn.Module()
    pretrained.feature, pretrained.classifier = ResNet(), nn.Linear(512, 200)
    write_published(pretrained, tmp_path / "399.tar", 399)
    content = torch.load(tmp_path / "399.tar", weights_only=True)
    kept = {name: value for name, value in content["state"].items() if "num_batches" not in name}
    torch.save({"epoch": 399, "state": {f"module.{name}": value for name, value in kept.items()}}, tmp_path / "399.tar")
    weights = read_published(tmp_path / "399.tar")
    encoder = ResNet(flatten=False)
    loaded = load_published(encoder, weights)
    assert all(map(torch.equal, encoder.parameters(), pretrained.feature.parameters()))
    assert loaded.missing == ()
    learner = ProtoNet(ResNet(last_norm=FeatureWiseTransform), 5)
    loaded = load_published(learner, weights)
    assert torch.equal(learner.feature.trunk[4].C1.weight, encoder.trunk[4].C1.weight)
    assert loaded.missing == ()
    assert loaded.ignored == ("classifier.weight", "classifier.bias")
    gnn = Gnn(ResNet(), 5)
    assert all(not name.startswith("feature.") for name in load_published(gnn, weights).missing)


def test_files_of_the_old_format(tmp_path):
    """As PyTorch before 1.6 wrote them."""
    learner, other = LEARNERS["matching"](), LEARNERS["matching"]()
    torch.save({"epoch": 1, "state": learner.state_dict()}, tmp_path / "old.tar", _use_new_zipfile_serialization=False)
    load_published(other, read_published(tmp_path / "old.tar"))
    assert equal(learner, other)


def test_the_encoder_is_exported_alone(tmp_path):
    learner, encoder = LEARNERS["relation"](), ConvNet(4, maps=True)
    export_encoder(learner, tmp_path / "encoder.safetensors")
    weights = read_published(tmp_path / "encoder.safetensors")
    assert next(iter(weights)).startswith("trunk.")
    load_published(encoder, weights)
    assert equal(encoder, learner.feature)
    export_encoder(encoder, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "encoder.safetensors").read_bytes()


def test_nothing_in_a_file_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    for name, content in (("a.tar", {"epoch": 0, "state": Evil()}), ("b.tar", Evil())):
        torch.save(content, tmp_path / name)
        with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
            read_published(tmp_path / name)
    (tmp_path / "c.tar").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        read_published(tmp_path / "c.tar")
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "expected a dictionary"),
        ({"epoch": 3, "state": {}}, "expected a dictionary with a state"),
        ({"epoch": 3, "state": {"a": 1}}, "found int at 'a'"),
        ({}, "expected a dictionary"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, message):
    torch.save(content, tmp_path / "x.tar")
    with pytest.raises(CheckpointError, match=message):
        load_published(ResNet(), read_published(tmp_path / "x.tar"))


def test_weights_that_do_not_fit(tmp_path):
    with pytest.raises(CheckpointError, match="no name fits this ConvNet"):
        load_published(ConvNet(4), {"encoder.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"trunk.0.C.weight has shape \[1\].*needs \[64, 3, 3, 3\]"):
        load_published(ConvNet(4), {"feature.trunk.0.C.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"ending in \.safetensors"):
        export_encoder(ConvNet(4), tmp_path / "encoder.pt")
    with pytest.raises(CheckpointError):
        read_published(tmp_path / "absent.tar")
