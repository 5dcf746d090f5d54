"""Weights under the published names (outputs are pinned by the golden vectors)."""

import argparse
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from nat_crf_testing.tiny import batch, tiny_model

from nat_crf.published import from_published, load_published, to_published
from nat_crf.sequences import length_mask


@pytest.mark.parametrize("crf", ["none", "static"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("share", [True, False])
def test_round_trip(crf: str, positions: str, share: bool) -> None:
    model = tiny_model("fairseq", crf=crf, positions=positions, share_embeddings=share)
    state = to_published(model)
    assert "decoder.layers.0.encoder_attn.q_proj.weight" in state
    assert ("crf_layer.E1.weight" in state) == (crf == "static")
    restored = from_published(state, heads=2, dropout=0.0, beam=64).eval()
    source, mask = batch(model, [3, 5], left=True), length_mask(torch.tensor([4, 6]))
    torch.testing.assert_close(restored(source, mask), model(source, mask))
    again = to_published(restored)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())


def test_dynamic_transitions_as_the_plug_in_names_them() -> None:
    """The published code has none; ours inside fairseq keeps them in its CRF layer."""
    model = tiny_model("fairseq", crf="dynamic")
    own = to_published(tiny_model("fairseq", crf="static"))
    state = own | {f"crf_layer.{name[4:]}": value for name, value in model.state_dict().items() if ".f." in name}
    restored = from_published(state, heads=2, beam=64)
    assert restored.config.crf == "dynamic"
    wanted = {name: value for name, value in model.state_dict().items() if ".f." in name}
    assert wanted
    assert all(torch.equal(restored.state_dict()[name], value) for name, value in wanted.items())


def test_bookkeeping_entries_are_left_out() -> None:
    state = to_published(tiny_model("fairseq", positions="sinusoidal"))
    state |= {"encoder.version": torch.tensor([3.0]), "encoder.embed_positions._float_tensor": torch.zeros(1)}
    assert from_published(state, heads=2).config.positions == "sinusoidal"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files(suffix: str, tmp_path: Path) -> None:
    """A fairseq checkpoint keeps its settings beside the weights."""
    state, path = to_published(tiny_model("fairseq", crf="static")), tmp_path / f"checkpoint{suffix}"
    if suffix == ".pt":
        torch.save({"args": argparse.Namespace(arch="nacrf_transformer"), "model": state, "extra_state": {}}, path)
    else:
        safetensors.torch.save_file(state, path)
    model = load_published(path, heads=2)
    assert model.config.crf == "static"
    assert model.config.rank == 3


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_executed(tmp_path: Path) -> None:
    path, trace = tmp_path / "checkpoint.pt", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Malicious(trace)))
    with pytest.raises(ValueError, match="save its 'model' entry alone"):
        load_published(path, heads=2)
    torch.save({"model": to_published(tiny_model("fairseq")), "extra": Malicious(trace)}, path)
    with pytest.raises(ValueError, match="cannot be read as plain weights"):
        load_published(path, heads=2)
    assert not trace.exists()


def test_bad_states() -> None:
    state = to_published(tiny_model("fairseq", crf="static"))
    with pytest.raises(ValueError, match="its embedding or first layer is missing"):
        from_published({}, heads=2)
    with pytest.raises(ValueError, match="not the weights of a fairseq NAT"):
        from_published({name: value for name, value in state.items() if "fc2" not in name}, heads=2)
    with pytest.raises(ValueError, match="not the weights of a fairseq NAT"):
        from_published(state | {"decoder.positional.weight": torch.zeros(2)}, heads=2)
    with pytest.raises(ValueError, match=r"output_projection.weight: expected the target embedding"):
        from_published(state | {"decoder.output_projection.weight": torch.zeros(13, 8)}, heads=2)
    with pytest.raises(ValueError, match="dim: expected a multiple of heads"):
        from_published(state, heads=3)


def test_models_that_fairseq_does_not_know() -> None:
    with pytest.raises(
        ValueError, match="know no positional attention and no dynamic transitions and no an output bias"
    ):
        to_published(tiny_model("paper", crf="dynamic"))
