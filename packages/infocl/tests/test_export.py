"""Encoders from and to other libraries."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from infocl.checkpoints import architecture, canonical_name, encoder_state, load_encoder_file
from infocl.export import save_folder, save_onnx, small_stem, torchvision_state
from infocl.networks import Encoder
from sextet.checkpoint import CheckpointError

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def encoders():
    """One for each stem, with statistics of their own."""
    torch.manual_seed(0)
    made = {stem: Encoder("resnet18", stem) for stem in ("cifar", "stl10", "imagenet")}
    for encoder in made.values():
        encoder(torch.randn(4, 3, 32, 32))
        encoder.eval()
    return made


@pytest.mark.parametrize(("stem", "stride"), [("cifar", 1), ("stl10", 2), ("imagenet", 0)])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_same_features_elsewhere(encoders, stem, stride, library):
    if library == "timm":
        other = timm.create_model("resnet18", num_classes=0)
    else:
        other = torchvision.models.resnet18()
        other.fc = torch.nn.Identity()
    other = small_stem(other, stride) if stride else other
    other.load_state_dict(torchvision_state(encoders[stem]))
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(X), encoders[stem](X)[-1])


def test_a_folder_for_timm(encoders, tmp_path):
    save_folder(encoders["imagenet"], tmp_path, "ImageNet", "resnet18", 224)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["architecture"], config["num_features"]) == ("resnet18", 512)
    assert config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]
    model = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(tmp_path / "model.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(X), encoders["imagenet"](X)[-1])


@pytest.mark.parametrize("stem", ["cifar", "stl10", "imagenet"])
def test_there_and_back(encoders, tmp_path, stem):
    save_file(torchvision_state(encoders[stem]), tmp_path / "encoder.safetensors")
    again = load_encoder_file(tmp_path / "encoder.safetensors", stem)
    with torch.no_grad():
        assert torch.equal(again(X)[-1], encoders[stem](X)[-1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_runtime_gives_the_features(encoders, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    save_onnx(encoders["cifar"], tmp_path / "encoder.onnx", 32)
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    images = torch.cat([X, X[:1]])
    with torch.no_grad():
        np.testing.assert_allclose(
            session.run(None, {"images": images.numpy()})[0], encoders["cifar"](images)[-1], atol=1e-4
        )


# The published code's checkpoints


@pytest.mark.parametrize(("theirs", "ours"), [
    ("encoder.conv1.weight", "conv1.weight"),
    ("module.encoder.layer2.0.shortcut.0.weight", "layer2.0.downsample.0.weight"),
    ("encoder.layer2.0.shortcut_bn.running_mean", "layer2.0.downsample.1.running_mean"),
    ("layer3.0.ds_conv1.weight", "layer3.0.downsample.0.weight"),
    ("module.encoder_q.layer3.0.ds_bn1.bias", "layer3.0.downsample.1.bias"),
    ("projector.0.weight", None),
    ("target_encoder.conv1.weight", None),
    ("encoder.fc.weight", None),
    ("decoder.bn1.weight", None),
])  # fmt: skip
def test_names(theirs, ours):
    assert canonical_name(theirs) == ours


@pytest.mark.parametrize("names", [("shortcut.0.", "shortcut_bn."), ("ds_conv1.", "ds_bn1.")])
def test_a_checkpoint_of_the_published_code(encoders, tmp_path, names):
    def renamed(name):
        return "module.encoder." + name.replace("downsample.0.", names[0]).replace("downsample.1.", names[1])

    state = {renamed(name): value for name, value in torchvision_state(encoders["stl10"]).items()}
    state |= {"module.projector.0.weight": torch.ones(3, 3), "module.target_encoder.conv1.weight": torch.ones(1)}
    torch.save({"state_dict": state, "epoch": 200}, tmp_path / "checkpoint.pth")
    found = load_encoder_file(tmp_path / "checkpoint.pth", "stl10")
    with torch.no_grad():
        assert torch.equal(found(X)[-1], encoders["stl10"](X)[-1])


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_architectures_are_told_apart(arch):
    with torch.device("meta"):
        assert architecture(Encoder(arch, "imagenet").state_dict()) == arch


def test_bad_input(encoders, tmp_path):
    state = torchvision_state(encoders["cifar"])

    def load(content, stem="cifar"):
        save_file(content, tmp_path / "file.safetensors")
        return load_encoder_file(tmp_path / "file.safetensors", stem)

    with pytest.raises(ValueError, match="which the file does not tell"):
        load(state, None)
    with pytest.raises(ValueError, match="first convolution of 3x3"):
        load(state, "imagenet")
    with pytest.raises(CheckpointError, match="entries of a ResNet"):
        load({"head.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"expected conv1\.weight"):
        load({"bn1.weight": torch.ones(64)})
    with pytest.raises(CheckpointError, match="stages of"):
        load({name: value for name, value in state.items() if not name.startswith("layer4.1")})
    with pytest.raises(CheckpointError, match=r"size mismatch"):
        load({**state, "layer4.1.conv2.weight": torch.ones(2, 2, 3, 3)})
    with pytest.raises(CheckpointError, match="found several"):
        encoder_state({"encoder.conv1.weight": torch.ones(1), "encoder_q.conv1.weight": torch.ones(1)})
    (tmp_path / "pickled.pth").write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(CheckpointError, match="cannot be read as plain weights"):
        load_encoder_file(tmp_path / "pickled.pth", "cifar")
    assert load_file(tmp_path / "file.safetensors")
