"""The base learners as modules, configured in the constructor, optionally learnable; and the linear layer they give."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fslstm import heads
from fslstm.dual import Coefficient, DualProblem, dual_coefficients, first_rows_logits, linear_weights
from fslstm.kernels import KERNELS
from fslstm.validation import check_episode, check_gram, in_full_precision

FirstRows = Callable[[Tensor, Tensor], Tensor]
"""(gram `[B, n, n]`, cross `[B, m, n]`) -> logits `[B, m, way]`."""


class LinearClassifier(nn.Linear):
    """A fitted head as a plain linear layer, features `[..., dim]` -> logits `[..., way]`; exports without a solver."""

    @classmethod
    def from_weights(cls, weight: Tensor, bias: Tensor) -> LinearClassifier:
        """From weight `[way, dim]` and bias `[way]`, copied and without gradient."""
        layer = cls(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        layer.requires_grad_(False)
        return layer

    def predict(self, features: Tensor) -> Tensor:
        """Class index of each row, `[..., dim]` -> `[...]`."""
        return self(features).argmax(dim=-1)


class Head(nn.Module):
    """A base learner: `head(query, support, labels, n_way, mask=None)` -> logits `[B, m, way]`, see `fslstm.heads`.

    Attributes:
        kernel: name of its kernel; only linear heads can be fitted to a `LinearClassifier`.
        validate: check the values of its input on every call (waits for the device).
    """

    def __init__(self, *, kernel: str = "linear", validate: bool = True) -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise ValueError(f"kernel: expected one of {KERNELS}, got {kernel!r}")
        self.kernel = kernel
        self.validate = validate

    @abstractmethod
    def forward(self, query: Tensor, support: Tensor, labels: Tensor, n_way: int, mask: Tensor | None = None) -> Tensor:
        """Logits `[B, m, way]` from `query [B, m, d]`, `support [B, n, d]`, `labels [B, n]`, `mask [B, n]`."""

    @abstractmethod
    def coefficients(
        self, gram: Tensor, labels: Tensor, n_way: int, mask: Tensor | None, dim: int
    ) -> tuple[Tensor, Tensor]:
        """alpha `[B, n, way]` and offset `[B, 1, way]` with logits = Kq alpha + offset, given K `[B, n, n]`."""

    @abstractmethod
    def linear(self, support: Tensor, labels: Tensor, n_way: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weight `[B, way, d]` and bias `[B, way]` with logits = Q weight^T + bias (see `fit` for prototypes)."""

    @in_full_precision
    def from_gram(
        self,
        gram: Tensor,
        cross: Tensor,
        labels: Tensor,
        n_way: int,
        mask: Tensor | None = None,
        *,
        query_norms: Tensor,
        dim: int,
        validate: bool | None = None,
    ) -> Tensor:
        """The logits `[B, m, way]` of `forward` from kernel matrices.

        Args:
            gram: `[B, n, n]` between support rows.
            cross: `[B, m, n]` between queries and support rows.
            labels, n_way, mask: as in `forward`.
            query_norms: `[B, m]` squared lengths of the queries (used by `Prototype`).
            dim: size of the features (used by `Prototype`).
            validate: None for the head's own setting.
        """
        check_gram(gram, cross, labels, n_way, mask, validate=self.validate if validate is None else validate)
        return self.kernel_logits(gram, cross, labels, n_way, mask, query_norms=query_norms, dim=dim)

    def kernel_logits(
        self,
        gram: Tensor,
        cross: Tensor,
        labels: Tensor,
        n_way: int,
        mask: Tensor | None,
        *,
        query_norms: Tensor,
        dim: int,
    ) -> Tensor:
        """`from_gram` without its checks and its care for precision, for loops that see to both once."""
        if mask is not None:
            gram = gram.masked_fill(~(mask[:, None] & mask[:, :, None]), 0)
            cross = cross.masked_fill(~mask[:, None], 0)
        alpha, offset = self.coefficients(gram, labels, n_way, mask, dim)
        logits, shift = torch.baddbmm(offset, cross, alpha), self.query_shift(query_norms, dim)
        return logits if shift is None else logits - shift

    def on_first_rows(self, labels: Tensor, n_way: int, *, query_norms: Tensor, dim: int) -> FirstRows:
        """The head as a function (gram, cross) -> logits on the first rows of a support set that is still growing.

        The labels `[B, N]` of all rows are known beforehand, so what depends on them alone is worked out once; the
        function takes gram `[B, n, n]` and cross `[B, m, n]` of the n <= N rows there are.
        """

        def logits(gram: Tensor, cross: Tensor) -> Tensor:
            present = labels[:, : gram.shape[1]]
            return self.kernel_logits(gram, cross, present, n_way, None, query_norms=query_norms, dim=dim)

        return logits

    def query_shift(self, query_norms: Tensor, dim: int) -> Tensor | None:  # noqa: ARG002
        """What this head's logits subtract from a query's scores in all classes alike, `[B, m, 1]`, or None."""
        return None

    def fit(self, support: Tensor, labels: Tensor, n_way: int) -> LinearClassifier:
        """Fit one support set `[n, d]` with labels `[n]` and return the classifier as a linear layer.

        The layer gives this head's logits; for `Prototype` up to the term -|q|^2 / d, the same for all classes, which
        neither argmax nor softmax sees. Raises ValueError for a kernel other than the linear one.
        """
        if self.kernel != "linear":
            raise ValueError(f"kernel: only a head with the linear kernel is a linear layer, got {self.kernel!r}")
        if support.ndim != 2:
            raise ValueError(f"support: expected one support set [rows, dim], got {list(support.shape)}")
        with torch.no_grad():
            weight, bias = self.linear(support[None], labels[None], n_way)
        return LinearClassifier.from_weights(weight[0], bias[0])


class _DualHead(Head):
    """A head that is one `DualProblem`."""

    gamma: float | None = None

    @abstractmethod
    def problem(self, labels: Tensor, n_way: int, like: Tensor, mask: Tensor | None) -> DualProblem:
        """The head on labels `[B, n]`."""

    @in_full_precision
    def forward(self, query: Tensor, support: Tensor, labels: Tensor, n_way: int, mask: Tensor | None = None) -> Tensor:
        """See `Head.forward`."""
        check_episode(query, support, labels, n_way, mask, validate=self.validate)
        problem = self.problem(labels, n_way, support, mask)
        return heads.problem_logits(query, support, problem, mask, self.kernel, self.gamma)

    def coefficients(
        self,
        gram: Tensor,
        labels: Tensor,
        n_way: int,
        mask: Tensor | None,
        dim: int,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """See `Head.coefficients`."""
        return dual_coefficients(gram, self.problem(labels, n_way, gram, mask))

    def on_first_rows(self, labels: Tensor, n_way: int, *, query_norms: Tensor, dim: int) -> FirstRows:
        """See `Head.on_first_rows`; one linear system shares its right-hand sides between all sizes."""
        problem = self.problem(labels, n_way, query_norms, None)
        if problem.targets is None:
            return super().on_first_rows(labels, n_way, query_norms=query_norms, dim=dim)
        return functools.partial(first_rows_logits, problem, problem.targets)

    @in_full_precision
    def linear(self, support: Tensor, labels: Tensor, n_way: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Head.linear`."""
        check_episode(None, support, labels, n_way, mask, validate=self.validate)
        problem = self.problem(labels, n_way, support, mask)
        weight, offset = linear_weights(heads.zero_padded(support, mask), problem)
        return weight, offset[:, 0]


class LSSVM(_DualHead):
    """Least-squares SVM head, `heads.ls_svm` (sections 4.1-4.3).

    Args:
        ridge, bias, code, center, kernel, gamma: as in `heads.ls_svm`.
        learnable: make ridge and bias parameters (their logarithms, so that they stay positive; a bias of 0 stays 0).
        validate: see `Head`.
    """

    def __init__(
        self,
        ridge: float = 0.1,
        bias: float = 0.5,
        code: str | Tensor = "ova",
        *,
        center: bool = False,
        kernel: str = "linear",
        gamma: float | None = None,
        learnable: bool = False,
        validate: bool = True,
    ) -> None:
        super().__init__(kernel=kernel, validate=validate)
        self.code, self.center, self.gamma = code, center, gamma
        self._ridge = _Positive("ridge", ridge, learnable=learnable)
        self._bias = _Positive("bias", bias, learnable=learnable and bias != 0)

    @property
    def ridge(self) -> Coefficient:
        """The ridge: a number, or a tensor with gradient where it is learnable."""
        return self._ridge()

    @property
    def bias(self) -> Coefficient:
        """The coefficient of J: a number, or a tensor with gradient where it is learnable."""
        return self._bias()

    def problem(self, labels: Tensor, n_way: int, like: Tensor, mask: Tensor | None) -> DualProblem:
        """See `heads.ls_svm_problem`."""
        return heads.ls_svm_problem(
            labels, n_way, like, ridge=self.ridge, bias=self.bias, code=self.code, mask=mask, center=self.center
        )


class Ridge(_DualHead):
    """Ridge regression head, `heads.ridge` (section 4.4); arguments as in `LSSVM`."""

    def __init__(
        self,
        ridge: float = 50.0,
        *,
        kernel: str = "linear",
        gamma: float | None = None,
        learnable: bool = False,
        validate: bool = True,
    ) -> None:
        super().__init__(kernel=kernel, validate=validate)
        self.gamma = gamma
        self._ridge = _Positive("ridge", ridge, learnable=learnable)

    @property
    def ridge(self) -> Coefficient:
        """The ridge: a number, or a tensor with gradient where it is learnable."""
        return self._ridge()

    def problem(self, labels: Tensor, n_way: int, like: Tensor, mask: Tensor | None) -> DualProblem:
        """See `heads.ridge_problem`."""
        return heads.ridge_problem(labels, n_way, like, ridge=self.ridge, mask=mask)


class CrammerSingerSVM(_DualHead):
    """Crammer-Singer SVM head, `heads.svm` (section 4.5)."""

    def __init__(self, C: float = 0.1, *, max_iter: int = 15, validate: bool = True) -> None:
        super().__init__(validate=validate)
        self.C, self.max_iter = C, max_iter

    def problem(self, labels: Tensor, n_way: int, like: Tensor, mask: Tensor | None) -> DualProblem:
        """See `heads.svm_problem`."""
        return heads.svm_problem(labels, n_way, like, C=self.C, max_iter=self.max_iter, mask=mask)


class Prototype(Head):
    """Nearest-prototype head, `heads.prototype` (section 4.5)."""

    def __init__(self, *, normalize: bool = True, validate: bool = True) -> None:
        super().__init__(validate=validate)
        self.normalize = normalize

    def forward(self, query: Tensor, support: Tensor, labels: Tensor, n_way: int, mask: Tensor | None = None) -> Tensor:
        """See `Head.forward`."""
        return heads.prototype(
            query, support, labels, n_way, normalize=self.normalize, mask=mask, validate=self.validate
        )

    def coefficients(
        self, gram: Tensor, labels: Tensor, n_way: int, mask: Tensor | None, dim: int
    ) -> tuple[Tensor, Tensor]:
        """2 OH / (count d) and -|p_c|^2 / d with |p_c|^2 out of K."""
        # [B, n, way]
        average = heads.class_average(labels, n_way, gram.dtype, mask)
        norms = (average * (gram @ average)).sum(dim=1, keepdim=True)
        return 2 * average / self._scale(dim), -norms / self._scale(dim)

    def query_shift(self, query_norms: Tensor, dim: int) -> Tensor:
        """|q|^2 / d."""
        return query_norms[..., None] / self._scale(dim)

    @in_full_precision
    def linear(self, support: Tensor, labels: Tensor, n_way: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `heads.prototype_weights`."""
        check_episode(None, support, labels, n_way, mask, validate=self.validate)
        return heads.prototype_weights(support, labels, n_way, mask, self._scale(support.shape[-1]))

    def _scale(self, dim: int) -> int:
        return dim if self.normalize else 1


class ScaledHead(Head):
    """Another head's logits times one learnable scalar, initially 1 (section 4.6)."""

    def __init__(self, head: Head) -> None:
        super().__init__(kernel=head.kernel, validate=head.validate)
        self.head = head
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, query: Tensor, support: Tensor, labels: Tensor, n_way: int, mask: Tensor | None = None) -> Tensor:
        """See `Head.forward`."""
        return self.scale * self.head(query, support, labels, n_way, mask)

    def coefficients(
        self, gram: Tensor, labels: Tensor, n_way: int, mask: Tensor | None, dim: int
    ) -> tuple[Tensor, Tensor]:
        """See `Head.coefficients`."""
        alpha, offset = self.head.coefficients(gram, labels, n_way, mask, dim)
        return self.scale * alpha, self.scale * offset

    def on_first_rows(self, labels: Tensor, n_way: int, *, query_norms: Tensor, dim: int) -> FirstRows:
        """See `Head.on_first_rows`."""
        logits = self.head.on_first_rows(labels, n_way, query_norms=query_norms, dim=dim)
        return lambda gram, cross: self.scale * logits(gram, cross)

    def query_shift(self, query_norms: Tensor, dim: int) -> Tensor | None:
        """See `Head.query_shift`."""
        shift = self.head.query_shift(query_norms, dim)
        return None if shift is None else self.scale * shift

    def linear(self, support: Tensor, labels: Tensor, n_way: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Head.linear`."""
        weight, bias = self.head.linear(support, labels, n_way, mask)
        return self.scale * weight, self.scale * bias


class _Positive(nn.Module):
    """A number, or a learnable positive scalar held as its logarithm."""

    def __init__(self, name: str, value: float, *, learnable: bool) -> None:
        super().__init__()
        if learnable and value <= 0:
            raise ValueError(f"{name}: expected a positive number to learn, got {value}")
        self.value = value
        self.log = nn.Parameter(torch.tensor(math.log(value))) if learnable else None

    def forward(self) -> Coefficient:
        return self.value if self.log is None else self.log.exp()
