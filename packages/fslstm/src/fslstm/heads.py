"""Four base learners: fit a classifier on an episode's support set and return the queries' logits (section 4).

Every function takes `query [B, m, d]`, `support [B, n, d]`, `support_labels [B, n]` (integers in `0..n_way-1`) and
returns logits `[B, m, n_way]` in float32, or in float64 for float64 input. Support sets may be unbalanced; a mask
`[B, n]`, True for real rows, lets episodes of different size share a batch. `validate=False` skips the checks of
values, which wait for the device. Labels and masks carry no gradient. Each raises a ValueError that names the argument.

The `*_problem` functions hold the algebra, for features (`dual.logits_from_features`) and for kernel matrices
(`dual.logits_from_gram`) alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fslstm.codes import code_matrix
from fslstm.dual import Coefficient, DualProblem, linear_system, logits_from_features, logits_from_gram
from fslstm.interior_point import crammer_singer
from fslstm.kernels import kernel_matrix
from fslstm.validation import check_episode, class_membership, in_full_precision


@in_full_precision
def ls_svm(
    query: Tensor,
    support: Tensor,
    support_labels: Tensor,
    n_way: int,
    *,
    ridge: Coefficient = 0.1,
    bias: Coefficient = 0.5,
    code: str | Tensor = "ova",
    mask: Tensor | None = None,
    center: bool = False,
    kernel: str = "linear",
    gamma: float | None = None,
    validate: bool = True,
) -> Tensor:
    """Least-squares SVM with output codes and soft decoding (sections 4.1-4.3).

    logits = (Kq + bias 1 1^T) (K + bias J + ridge I)^{-1} OH M M^T for codes M of +-1; with zeros in a column of M that
    binary problem leaves out the classes coded zero.

    Args:
        query, support, support_labels, n_way, mask, validate: see the module.
        ridge: > 0; a number, or a tensor of one value or one an episode (gradients reach it).
        bias: >= 0, coefficient of the all-ones matrix; 0 for no bias. Same forms as `ridge`.
        code: `"ova"` one-vs-all, `"ovo"` one-vs-one, `"ecoc"` exhaustive, or a matrix `[way, problems]` of -1, 0, +1.
        center: subtract the mean over classes, which softmax ignores.
        kernel, gamma: see `kernels.kernel_matrix`.
    """
    check_episode(query, support, support_labels, n_way, mask, validate=validate)
    problem = ls_svm_problem(
        support_labels, n_way, support, ridge=ridge, bias=bias, code=code, mask=mask, center=center
    )
    return problem_logits(query, support, problem, mask, kernel, gamma)


@in_full_precision
def ridge(
    query: Tensor,
    support: Tensor,
    support_labels: Tensor,
    n_way: int,
    *,
    ridge: Coefficient = 50.0,
    mask: Tensor | None = None,
    kernel: str = "linear",
    gamma: float | None = None,
    validate: bool = True,
) -> Tensor:
    """Ridge regression on one-hot targets: logits = 2 Kq (K + ridge I)^{-1} OH (section 4.4).

    Args:
        query, support, support_labels, n_way, mask, validate: see the module.
        ridge: > 0, as in `ls_svm`.
        kernel, gamma: see `kernels.kernel_matrix`.
    """
    check_episode(query, support, support_labels, n_way, mask, validate=validate)
    problem = ridge_problem(support_labels, n_way, support, ridge=ridge, mask=mask)
    return problem_logits(query, support, problem, mask, kernel, gamma)


@in_full_precision
def svm(
    query: Tensor,
    support: Tensor,
    support_labels: Tensor,
    n_way: int,
    *,
    C: float = 0.1,
    max_iter: int = 15,
    mask: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    """Crammer-Singer multi-class SVM: logits = Kq alpha with alpha from the dual of section 4.5.

    Args:
        query, support, support_labels, n_way, mask, validate: see the module.
        C: > 0, upper bound of the coefficient of a row's own class.
        max_iter: interior-point steps; 15 reach rounding in float32 and about 1e-9 in float64 for common episodes.
    """
    check_episode(query, support, support_labels, n_way, mask, validate=validate)
    problem = svm_problem(support_labels, n_way, support, C=C, max_iter=max_iter, mask=mask)
    return problem_logits(query, support, problem, mask)


@in_full_precision
def prototype(
    query: Tensor,
    support: Tensor,
    support_labels: Tensor,
    n_way: int,
    *,
    normalize: bool = True,
    mask: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    """Nearest prototype: logits = -|q - p_c|^2 / d with p_c the mean of class c (section 4.5).

    Args:
        query, support, support_labels, n_way, mask, validate: see the module.
        normalize: divide by the feature size d.
    """
    check_episode(query, support, support_labels, n_way, mask, validate=validate)
    scale = support.shape[-1] if normalize else 1
    weight, bias = prototype_weights(support, support_labels, n_way, mask, scale)
    return query @ weight.mT + bias[:, None] - query.square().sum(dim=-1, keepdim=True) / scale


def ls_svm_problem(
    labels: Tensor,
    n_way: int,
    like: Tensor,
    *,
    ridge: Coefficient = 0.1,
    bias: Coefficient = 0.5,
    code: str | Tensor = "ova",
    mask: Tensor | None = None,
    center: bool = False,
) -> DualProblem:
    """The LS-SVM on given labels `[B, n]`, in dtype and on the device of `like`."""
    _check_positive("ridge", ridge)
    _check_positive("bias", bias, or_zero=True)
    # A name settles this without a look at the values, which may be on a device
    uses_all_rows = code in ("ova", "ecoc") if isinstance(code, str) else bool((code != 0).all())
    matrix = code_matrix(code, n_way, like.device).to(like)
    one_hot = class_membership(labels, n_way, mask, like.dtype)
    # [L, way]: soft decoding, less the mean over classes if asked for
    decode = matrix.mT - matrix.mean(dim=0)[:, None] if center else matrix.mT
    if uses_all_rows:
        # One system for all columns of the code, so that coding and decoding collapse to OH M M^T
        targets = one_hot @ (matrix @ decode)
        return DualProblem(ridge, bias, linear_system(targets, _shared(mask)), targets=targets)
    # [B, n, L]
    targets = one_hot @ matrix
    return DualProblem(ridge, bias, linear_system(targets, targets.mT != 0), decode=decode)


def ridge_problem(
    labels: Tensor, n_way: int, like: Tensor, *, ridge: Coefficient = 50.0, mask: Tensor | None = None
) -> DualProblem:
    """Ridge regression on given labels `[B, n]`: the LS-SVM's system without bias, targets 2 OH."""
    _check_positive("ridge", ridge)
    targets = 2 * class_membership(labels, n_way, mask, like.dtype)
    return DualProblem(ridge, 0.0, linear_system(targets, _shared(mask)), targets=targets)


def svm_problem(
    labels: Tensor, n_way: int, like: Tensor, *, C: float = 0.1, max_iter: int = 15, mask: Tensor | None = None
) -> DualProblem:
    """The Crammer-Singer SVM on given labels `[B, n]`; its "+ I" is a ridge of 1."""
    _check_positive("C", C)
    if max_iter < 1:
        raise ValueError(f"max_iter: expected at least 1, got {max_iter}")
    one_hot = class_membership(labels, n_way, mask, like.dtype)
    return DualProblem(1.0, 0.0, crammer_singer(one_hot, C, max_iter, mask))


def class_average(labels: Tensor, n_way: int, dtype: torch.dtype, mask: Tensor | None = None) -> Tensor:
    """Weights `[B, n, way]` that average the rows of each class: OH / count (zero for a class without rows)."""
    one_hot = class_membership(labels, n_way, mask, dtype)
    return one_hot / one_hot.sum(dim=1, keepdim=True).clamp_min(1)


def prototype_weights(
    support: Tensor, labels: Tensor, n_way: int, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Class means p as linear scores: weight 2 p / scale `[B, way, d]`, bias -|p|^2 / scale `[B, way]`."""
    means = class_average(labels, n_way, support.dtype, mask).mT @ zero_padded(support, mask)
    return 2 * means / scale, -means.square().sum(dim=-1) / scale


def problem_logits(
    query: Tensor,
    support: Tensor,
    problem: DualProblem,
    mask: Tensor | None = None,
    kernel: str = "linear",
    gamma: float | None = None,
) -> Tensor:
    """Logits `[B, m, way]` of a dual problem from features, for the named kernel."""
    support = zero_padded(support, mask)
    if kernel == "linear" and gamma is None:
        return logits_from_features(query, support, problem)
    gram = kernel_matrix(support, support, kernel, gamma)
    return logits_from_gram(gram, kernel_matrix(query, support, kernel, gamma), problem)


def zero_padded(support: Tensor, mask: Tensor | None) -> Tensor:
    """`support` with its padded rows set to zero, whatever they held."""
    return support if mask is None else support.masked_fill(~mask[..., None], 0)


def _shared(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None]


def _check_positive(name: str, value: Coefficient, *, or_zero: bool = False) -> None:
    # Tensors are left alone: they may be on a device, and learnt ones are positive by construction
    if not isinstance(value, Tensor) and not (value >= 0 if or_zero else value > 0):
        raise ValueError(f"{name}: expected a {'non-negative' if or_zero else 'positive'} number, got {value}")
