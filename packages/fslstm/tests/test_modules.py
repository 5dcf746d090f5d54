"""Heads as modules, learnable coefficients, and the linear layer a fitted head becomes."""

from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from fslstm_testing.brute_force import episodes

from fslstm import (
    LSSVM,
    CrammerSingerSVM,
    LinearClassifier,
    Prototype,
    Ridge,
    ScaledHead,
    ls_svm,
    prototype,
    ridge,
    svm,
)
from fslstm.modules import Head

PAIRS = {
    "ls_svm": (LSSVM(), ls_svm),
    "ls_svm-centred": (
        LSSVM(0.3, 0.2, "ovo", center=True),
        partial(ls_svm, ridge=0.3, bias=0.2, code="ovo", center=True),
    ),
    "ridge": (Ridge(7.0), partial(ridge, ridge=7.0)),
    "svm": (CrammerSingerSVM(0.2, max_iter=30), partial(svm, C=0.2, max_iter=30)),
    "prototype": (Prototype(), prototype),
    "prototype-raw": (Prototype(normalize=False), partial(prototype, normalize=False)),
    "scaled": (ScaledHead(Prototype()).double(), prototype),
}
each_pair = pytest.mark.parametrize(("head", "function"), PAIRS.values(), ids=PAIRS.keys())
each_head = pytest.mark.parametrize("head", [pair[0] for pair in PAIRS.values()], ids=PAIRS.keys())


@each_pair
def test_module_is_the_function(head: Head, function) -> None:
    query, support, labels = episodes(2, 4, 3, 2, 9)
    mask = torch.ones_like(labels).bool()
    mask[0, -1] = False
    for arguments in ((query, support, labels, 4), (query, support, labels, 4, mask)):
        expected = function(*arguments[:4], mask=arguments[4] if len(arguments) > 4 else None)
        torch.testing.assert_close(head(*arguments), expected)


@each_head
@pytest.mark.parametrize("padded", [False, True])
def test_kernel_form_is_the_feature_form(head: Head, padded: bool) -> None:
    query, support, labels = episodes(2, 4, 3, 2, 9)
    mask = torch.ones_like(labels).bool()
    mask[0, -1] = False
    mask = mask if padded else None
    gram, cross = support @ support.mT, query @ support.mT
    if padded:
        gram[0, -1], gram[0, :, -1], cross[0, :, -1] = torch.nan, torch.nan, torch.nan
    norms = query.square().sum(dim=-1)
    logits = head.from_gram(gram, cross, labels, 4, mask, query_norms=norms, dim=9)
    torch.testing.assert_close(logits, head(query, support, labels, 4, mask))


@each_head
def test_kernel_form_has_the_same_gradient(head: Head) -> None:
    query, support, labels = episodes(2, 3, 2, 2, 9)
    inputs = (query.requires_grad_(), support.requires_grad_())
    direct = torch.autograd.grad(head(*inputs, labels, 3).sin().sum(), inputs)
    logits = head.from_gram(
        support @ support.mT, query @ support.mT, labels, 3, query_norms=query.square().sum(-1), dim=9
    )
    for mine, other in zip(torch.autograd.grad(logits.sin().sum(), inputs), direct, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)


@each_head
@pytest.mark.parametrize("dim", [5, 40])
def test_fitted_head_is_a_linear_layer(head: Head, dim: int) -> None:
    query, support, labels = episodes(1, 4, 3, 2, dim)
    layer = head.fit(support[0], labels[0], 4)
    assert isinstance(layer, torch.nn.Linear)
    logits = head(query, support, labels, 4)[0]
    # Prototypes: up to -|q|^2 / d, the same in all classes
    shift = logits - layer(query[0])
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift))
    if not isinstance(head, Prototype | ScaledHead):
        torch.testing.assert_close(layer(query[0]), logits)
    assert torch.equal(layer.predict(query[0]), logits.argmax(dim=-1))


def test_fitted_head_exports_and_saves(tmp_path: Path) -> None:
    query, support, labels = episodes(1, 5, 5, 2, 16, dtype=torch.float32)
    layer = LSSVM().fit(support[0], labels[0], 5)
    exported = torch.export.export(layer, (query[0],))
    torch.testing.assert_close(exported.module()(query[0]), layer(query[0]))
    safetensors.torch.save_file(layer.state_dict(), tmp_path / "head.safetensors")
    loaded = LinearClassifier(16, 5)
    loaded.load_state_dict(safetensors.torch.load_file(tmp_path / "head.safetensors"))
    assert torch.equal(loaded(query[0]), layer(query[0]))


def test_learnable_coefficients() -> None:
    head = LSSVM(0.3, 0.4, learnable=True).double()
    assert sorted(name for name, _ in head.named_parameters()) == ["_bias.log", "_ridge.log"]
    query, support, labels = episodes(2, 3, 2, 2, 9)
    torch.testing.assert_close(head(query, support, labels, 3), ls_svm(query, support, labels, 3, ridge=0.3, bias=0.4))
    head(query, support, labels, 3).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad != 0 for parameter in head.parameters())
    assert len(list(LSSVM(bias=0.0, learnable=True).parameters())) == 1
    assert len(list(Ridge(learnable=True).parameters())) == 1
    assert not list(LSSVM().parameters())


def test_scale() -> None:
    head = ScaledHead(LSSVM()).double()
    assert head.scale.tolist() == [1.0]
    query, support, labels = episodes(2, 3, 2, 2, 9)
    torch.nn.init.constant_(head.scale, 2.5)
    torch.testing.assert_close(head(query, support, labels, 3), 2.5 * ls_svm(query, support, labels, 3))
    head(query, support, labels, 3).sum().backward()
    assert head.scale.grad is not None


def test_bad_input() -> None:
    _, support, labels = episodes(1, 3, 2, 1, 4)
    with pytest.raises(ValueError, match="kernel: only a head with the linear"):
        LSSVM(kernel="rbf").fit(support[0], labels[0], 3)
    with pytest.raises(ValueError, match="support: expected one support set"):
        LSSVM().fit(support, labels, 3)
    with pytest.raises(ValueError, match="ridge: expected a positive number to learn"):
        Ridge(0.0, learnable=True)
    with pytest.raises(ValueError, match="kernel: expected one of"):
        LSSVM(kernel="poly")
    gram = support @ support.mT
    with pytest.raises(ValueError, match="gram: expected"):
        LSSVM().from_gram(gram[0], gram, labels, 3, query_norms=labels, dim=4)
    with pytest.raises(ValueError, match="cross: expected"):
        LSSVM().from_gram(gram, gram[:, :, :2], labels, 3, query_norms=labels, dim=4)


@pytest.mark.filterwarnings("ignore")  # the exporter's own, about things it does not use here
def test_a_fitted_head_runs_in_onnx(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    query, support, labels = episodes(1, 3, 2, 4, 5, dtype=torch.float32)
    layer = LSSVM().fit(support[0], labels[0], 3)
    program = torch.onnx.export(layer, (query[0],), dynamic_shapes=({0: torch.export.Dim("rows")},), dynamo=True)
    program.save(str(tmp_path / "head.onnx"))
    session = runtime.InferenceSession(str(tmp_path / "head.onnx"))
    for rows in (query[0], query[0, :2]):
        (found,) = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), layer(rows))
