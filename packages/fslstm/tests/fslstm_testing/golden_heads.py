"""Golden checks of heads, pseudo support, inverse attention and the whole objective."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fslstm import codes, heads
from fslstm.modules import LSSVM, CrammerSingerSVM, Head, Prototype, Ridge, ScaledHead
from fslstm.objective import smoothed_cross_entropy
from fslstm.transduction import InverseAttention, PseudoSupport, pseudo_support
from fslstm_testing.golden_file import GoldenFile, require

CLOSED_FORM, QP_OUTPUT, QP_GRADIENT, SINGLE = 1e-9, 1e-6, 5e-4, 2e-4
PERCEPTRONS = ("Q", "K", "V", "fc")


def check_head(file: GoldenFile, head: str, case: str) -> None:
    """`head_<head>_<case>.npz`: logits and gradients in float64, logits in float32."""
    support, query, labels, way = episode(file, case)
    cotangent = file.floats("cotangent", "B", "m", "way")
    function = head_function(file, head, case, way)
    tolerance = QP_OUTPUT if head == "svm" else CLOSED_FORM
    support, query = support.requires_grad_(), query.requires_grad_()
    logits = function(query, support, labels, way)
    file.close("logits", logits, tolerance, "B", "m", "way")
    if head == "svm":
        file.close("logits_converged", logits, tolerance, "B", "m", "way")
    (cotangent * logits).sum().backward()
    for name, tensor, rows in (("grad_support", support, "n"), ("grad_query", query, "m")):
        assert tensor.grad is not None
        compare = file.relatively_close if head == "svm" else file.close
        compare(name, tensor.grad, QP_GRADIENT if head == "svm" else CLOSED_FORM, "B", rows, "d")
    single = function(query.detach().float(), support.detach().float(), labels, way)
    file.relatively_close("logits", single, SINGLE, "B", "m", "way")


def episode(file: GoldenFile, case: str, *, has_query_labels: bool = True) -> tuple[Tensor, Tensor, Tensor, int]:
    """support, query, support_labels and way, each checked against the others (with `query_labels` and `shot`)."""
    support, query = file.floats("support", "B", "n", "d"), file.floats("query", "B", "m", "d")
    labels = file.integers("support_labels", "B", "n")
    way, shot = file.whole("way", 2), file.whole("shot")
    file.sizes["way"] = way
    require(int(labels.min()) >= 0 and int(labels.max()) < way, "support_labels: out of range")
    counts = torch.stack([row.bincount(minlength=way) for row in labels])
    if case.startswith("unbalanced"):
        require(bool((counts > 0).all()), "support_labels: a class is missing")
    else:
        require(bool((counts == shot).all()), f"support_labels: not {shot} of each class")
    if has_query_labels:
        check_query_labels(file.integers("query_labels", "B", "m"), way)
    return support, query, labels, way


def check_query_labels(labels: Tensor, way: int) -> None:
    """In range, and the same number of each class in every episode where the number of queries allows it."""
    require(int(labels.min()) >= 0 and int(labels.max()) < way, "query_labels: out of range")
    if labels.shape[1] % way == 0:
        counts = torch.stack([row.bincount(minlength=way) for row in labels])
        require(bool((counts == labels.shape[1] // way).all()), "query_labels: not balanced")


def head_function(file: GoldenFile, head: str, case: str, way: int) -> Callable[..., Tensor]:
    """The head with the settings of the file."""
    if head == "lssvm":
        ridge = file.number("C_reg") if "C_reg" in file else 0.1
        code = file.floats("code_matrix", "way", "L")
        check_code(code, case, way)
        return lambda *arguments: heads.ls_svm(*arguments, ridge=ridge, code=code)
    if head == "rr":
        ridge = file.number("lambda_reg")
        return lambda *arguments: heads.ridge(*arguments, ridge=ridge)
    if head == "svm":
        bound = file.number("C_reg")
        return lambda *arguments: heads.svm(*arguments, C=bound, max_iter=100)
    normalize = check_normalize(file, case)
    return lambda *arguments: heads.prototype(*arguments, normalize=normalize)


def check_code(code: Tensor, case: str, way: int) -> None:
    """The named code; beyond the published five classes the order of the columns is not documented."""
    name = next((prefix for prefix in ("ovo", "ecoc") if case.startswith(prefix)), "ova")
    expected = codes.code_matrix(name, way).double()
    if name != "ova" and way != 5:
        code, expected = (torch.tensor(sorted(matrix.mT.tolist())) for matrix in (code, expected))
    require(torch.equal(code, expected), f"code_matrix: not the {name} code of {way} classes")


def check_normalize(file: GoldenFile, case: str) -> bool:
    """0 in the case `raw`, absent or 1 elsewhere."""
    if "normalize" not in file:
        require(not case.startswith("raw"), "normalize: missing in the case raw")
        return True
    stored = file.arrays["normalize"]
    require(stored.dtype.kind in "bi" or stored.dtype == "float64", f"normalize: dtype {stored.dtype}")
    value = file.array("normalize", str(stored.dtype)).item()
    require(value in (0, 1) and bool(value) != case.startswith("raw"), f"normalize: {value} in the case {case}")
    return bool(value)


def check_psm(file: GoldenFile, head: str, case: str) -> None:
    """`psm_<head>_<case>.npz`: every round in float64; in float32 as long as the pseudo labels are the same."""
    support, query, labels, way = episode(file, case)
    rounds = file.whole("iterations", 0)
    file.sizes |= {"T": rounds, "final": labels.shape[1] + way * rounds}
    module = psm_head(file, head, case)
    tolerance = QP_OUTPUT if head == "svm" else CLOSED_FORM
    result = pseudo_support(module, query, support, labels, way, rounds=rounds)
    require(len(support) == 1, "support: more than one episode")
    file.close("logits_per_iteration", result.round_logits[0], tolerance, "T", "m", "way")
    file.equal("pseudo_labels", result.pseudo_labels[0], "T", "m")
    file.close("pseudo_prototypes", result.pseudo_prototypes[0], CLOSED_FORM, "T", "way", "d")
    file.close("final_logits", result.logits, tolerance, 1, "m", "way")
    file.equal("final_support_labels", result.support_labels, 1, "final")
    check_psm_single(file, pseudo_support(module, query.float(), support.float(), labels, way, rounds=rounds))


def psm_head(file: GoldenFile, head: str, case: str) -> Head:
    """The head of a PSM file: its defaults, unless the file has the setting that head files document."""
    if head == "lssvm":
        return LSSVM(ridge=file.number("C_reg") if "C_reg" in file else 0.1)
    if head == "rr":
        return Ridge(file.number("lambda_reg") if "lambda_reg" in file else 50.0)
    if head == "svm":
        return CrammerSingerSVM(file.number("C_reg") if "C_reg" in file else 0.1, max_iter=100)
    return Prototype(normalize=check_normalize(file, case))


def check_psm_single(file: GoldenFile, result: PseudoSupport) -> None:
    """float32 logits of all rounds up to the first in which rounding tips a pseudo label."""
    expected = torch.from_numpy(file.arrays["logits_per_iteration"])
    same = (result.pseudo_labels[0] == expected.argmax(-1)).all(dim=-1)
    agreeing = int(same.long().cumprod(0).sum())
    for index in range(min(agreeing + 1, len(expected))):
        wanted = expected[index]
        error = float((result.round_logits[0, index].double() - wanted).abs().max() / wanted.abs().max())
        require(error <= SINGLE, f"logits_per_iteration: float32 differs by {error:.3g} in round {index}")
    if agreeing == len(expected):
        file.relatively_close("final_logits", result.logits, SINGLE, 1, "m", "way")


def attention_module(file: GoldenFile) -> InverseAttention:
    """The module in float64 with the file's parameters, no dropout."""
    dim, reduction = file.whole("d_model"), file.whole("reduction")
    require(dim == file.sizes["d"] and reduction <= dim, f"d_model: {dim}, reduction: {reduction}")
    file.sizes["h"] = dim // reduction
    module = InverseAttention(dim, reduction, dropout=0.0).double()
    shapes = {f"{name}.0.weight": ("h", "d") for name in PERCEPTRONS}
    shapes |= {f"{name}.0.bias": ("h",) for name in PERCEPTRONS}
    shapes |= {f"{name}.2.weight": ("d", "h") for name in PERCEPTRONS}
    shapes |= {f"{name}.2.bias": ("d",) for name in PERCEPTRONS}
    shapes |= {"layer_norm.weight": ("d",), "layer_norm.bias": ("d",)}
    module.load_state_dict({name: file.floats(f"param.{name}", *shape) for name, shape in shapes.items()})
    return module


def check_gradients(file: GoldenFile, module: InverseAttention, support: Tensor, query: Tensor) -> None:
    """`grad_support`, `grad_query` and `grad.*` after the backward pass."""
    for name, tensor in (("grad_support", support), ("grad_query", query)):
        assert tensor.grad is not None
        file.close(name, tensor.grad, CLOSED_FORM, *tensor.shape)
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        file.close(f"grad.{name}", parameter.grad, CLOSED_FORM, *parameter.shape)


def check_iam(file: GoldenFile, case: str) -> None:
    """`iam_<case>.npz`."""
    support, query, labels, way = episode(file, case, has_query_labels="query_labels" in file)
    module = attention_module(file)
    cotangent = file.floats("cotangent", "B", "n", "d")
    require(abs(file.number("temperature") - math.sqrt(file.sizes["d"])) <= CLOSED_FORM, "temperature: not sqrt(d)")
    support, query = support.requires_grad_(), query.requires_grad_()
    output = module(query, support, labels, way)
    file.close("output", output, CLOSED_FORM, "B", "n", "d")
    attention = module.attention(query, support)
    file.close("attention", attention, CLOSED_FORM, "B", "n", "m")
    # [B, n, n]: averages over the rows of the same class
    same = (labels[:, :, None] == labels[:, None]).double()
    file.close("class_averaged_attention", same / same.sum(-1, keepdim=True) @ attention, CLOSED_FORM, "B", "n", "m")
    (cotangent * output).sum().backward()
    check_gradients(file, module, support, query)
    single = module.float()(query.detach().float(), support.detach().float(), labels, way)
    file.relatively_close("output", single, SINGLE, "B", "n", "d")


def check_episode_file(file: GoldenFile, case: str) -> None:
    """`episode_<case>.npz`: the training objective with its gradients, and the transductive test path."""
    support, query, labels, way = episode(file, case)
    query_labels = file.integers("query_labels", "B", "m")
    module, head = attention_module(file), ScaledHead(LSSVM()).double()
    torch.nn.init.constant_(head.scale, file.number("scale"))
    support, query = support.requires_grad_(), query.requires_grad_()
    adjusted = module(query, support, labels, way)
    file.close("adjusted_support", adjusted, CLOSED_FORM, "B", "n", "d")
    logits = head(query, adjusted, labels, way)
    file.close("logits", logits, CLOSED_FORM, "B", "m", "way")
    loss = smoothed_cross_entropy(logits, query_labels, file.number("label_smoothing"))
    file.close("loss", loss, CLOSED_FORM)
    loss.backward()
    check_gradients(file, module, support, query)
    assert head.scale.grad is not None
    file.close("grad_scale", head.scale.grad, CLOSED_FORM, 1)
    rounds = file.whole("psm_iterations", 0)
    final = pseudo_support(head, query.detach(), adjusted.detach(), labels, way, rounds=rounds)
    file.close("final_logits_after_psm", final.logits, CLOSED_FORM, "B", "m", "way")
    features, rows = query.detach().float(), support.detach().float()
    single = head.float()(features, module.float()(features, rows, labels, way), labels, way)
    file.relatively_close("logits", single, SINGLE, "B", "m", "way")
