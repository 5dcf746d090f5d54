"""A head behind scikit-learn's interface: fit, predict, decision_function, predict_proba, partial_fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fslstm.modules import Head, LinearClassifier

Features = Tensor | ArrayLike
Result = Tensor | NDArray[Any]


class FewShotClassifier:
    """Fit one of the heads on labelled feature vectors and classify others.

    Features are arrays or tensors `[rows, dim]`; labels anything NumPy can sort (integers, strings), `[rows]`. Tensors
    in give tensors out, arrays in give arrays out, except that labels which are not tensors come back as an array.

    Args:
        head: a base learner such as `LSSVM()`.

    Attributes:
        classes_: the labels seen, sorted; columns of `decision_function` follow them.
        classifier_: the head as a linear layer, for a head with the linear kernel.
    """

    def __init__(self, head: Head) -> None:
        self.head = head
        self.classes_: NDArray[Any] = np.empty(0)
        self.classifier_: LinearClassifier | None = None
        self._support: Tensor | None = None
        self._labels: NDArray[Any] = np.empty(0)
        self._tensor_labels = False

    def fit(self, X: Features, y: Features) -> FewShotClassifier:
        """Fit on `[rows, dim]` and `[rows]`, forgetting earlier rows; at least two classes. Returns itself."""
        self._support = None
        return self.partial_fit(X, y)

    def partial_fit(self, X: Features, y: Features) -> FewShotClassifier:
        """Add rows of known or new classes; the result equals `fit` on all rows so far. Returns itself.

        The first call may hold one class only; predictions need two.
        """
        features, labels = _features(X), _labels(y)
        if len(features) != len(labels):
            raise ValueError(f"y: expected one label for each of {len(features)} rows, got {len(labels)}")
        if self._support is None:
            self._support, self._labels = features, labels
        elif features.shape[1] != self._support.shape[1]:
            raise ValueError(f"X: expected {self._support.shape[1]} features as before, got {features.shape[1]}")
        else:
            self._support = torch.cat([self._support, features.to(self._support)])
            self._labels = np.concatenate([self._labels, labels])
        self._tensor_labels = isinstance(y, Tensor)
        self.classes_ = np.unique(self._labels)
        linear = self.head.kernel == "linear" and len(self.classes_) > 1
        self.classifier_ = self.head.fit(self._support, self._targets(), len(self.classes_)) if linear else None
        return self

    def decision_function(self, X: Features) -> Result:
        """Logits `[rows, classes]` (for prototypes up to a number the same in all classes)."""
        return _like(X, self._logits(X))

    def predict_proba(self, X: Features) -> Result:
        """Softmax of the logits, `[rows, classes]`; not calibrated (a `ScaledHead` with a tuned scale would be)."""
        return _like(X, self._logits(X).softmax(dim=-1))

    def predict(self, X: Features) -> Result:
        """The label of each row, `[rows]`."""
        indices = self._logits(X).argmax(dim=-1).cpu()
        labels = self.classes_[indices.numpy()]
        return torch.from_numpy(labels).to(_features(X).device) if self._tensor_labels else labels

    def score(self, X: Features, y: Features) -> float:
        """Share of rows whose label is predicted right."""
        predicted = self.predict(X)
        return float(np.mean(_labels(predicted) == _labels(y)))

    @torch.no_grad()
    def _logits(self, X: Features) -> Tensor:
        if self._support is None or len(self.classes_) < 2:
            raise ValueError(f"classes: expected a fit on at least two, got {self.classes_.tolist()}; call fit first")
        features = _features(X).to(self._support)
        if features.shape[1] != self._support.shape[1]:
            raise ValueError(f"X: expected {self._support.shape[1]} features as in fit, got {features.shape[1]}")
        if self.classifier_ is not None:
            return self.classifier_(features)
        return self.head(features[None], self._support[None], self._targets()[None], len(self.classes_))[0]

    def _targets(self) -> Tensor:
        """Labels as positions in `classes_`, `[rows]`."""
        assert self._support is not None
        return torch.from_numpy(np.searchsorted(self.classes_, self._labels)).to(self._support.device)


def _features(X: Features) -> Tensor:
    features = X.detach() if isinstance(X, Tensor) else torch.from_numpy(np.array(X))
    if features.ndim != 2:
        raise ValueError(f"X: expected [rows, dim], got {list(features.shape)}")
    # As the heads: float64 stays, everything else becomes float32
    return features if features.dtype == torch.float64 else features.float()


def _labels(y: Features) -> NDArray[Any]:
    labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if labels.ndim != 1:
        raise ValueError(f"y: expected [rows], got {list(labels.shape)}")
    return labels


def _like(X: Features, result: Tensor) -> Result:
    return result if isinstance(X, Tensor) else result.cpu().numpy()
