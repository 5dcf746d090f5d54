"""The scikit-learn-style classifier."""

import numpy as np
import pytest
import torch
from fslstm_testing.brute_force import episodes

from fslstm import LSSVM, CrammerSingerSVM, FewShotClassifier, Prototype, Ridge
from fslstm.modules import Head

HEADS = {
    "ls_svm": LSSVM(),
    "ridge": Ridge(),
    "svm": CrammerSingerSVM(),
    "prototype": Prototype(),
    "rbf": LSSVM(kernel="rbf", gamma=0.05),
}
each_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
NAMES = np.array(["cat", "ant", "dog"])


def arrays(dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """query `[12, 10]`, support `[15, 10]`, class names `[15]`."""
    query, support, labels = episodes(1, 3, 5, 4, 10)
    return query[0].numpy().astype(dtype), support[0].numpy().astype(dtype), NAMES[labels[0].numpy()]


@each_head
def test_is_the_head(head: Head) -> None:
    query, support, names = arrays()
    model = FewShotClassifier(head).fit(support, names)
    assert model.classes_.tolist() == ["ant", "cat", "dog"]
    labels = torch.from_numpy(np.searchsorted(model.classes_, names))[None]
    logits = head(torch.from_numpy(query)[None], torch.from_numpy(support)[None], labels, 3)[0]
    np.testing.assert_allclose(model.predict_proba(query), logits.softmax(-1).numpy(), rtol=1e-9)
    assert model.predict(query).tolist() == model.classes_[logits.argmax(-1).numpy()].tolist()
    assert model.decision_function(query).shape == (12, 3)
    assert model.score(support, names) > 0.8


@each_head
def test_partial_fit_is_fit_on_all_rows(head: Head) -> None:
    """New shots of known classes, then a new class; the first call holds one class only."""
    query, support, names = arrays()
    order = np.argsort(names, kind="stable")
    support, names = support[order], names[order]
    model = FewShotClassifier(head)
    for start, end in ((0, 4), (4, 9), (9, 15)):
        model.partial_fit(support[start:end], names[start:end])
    whole = FewShotClassifier(head).fit(support, names)
    np.testing.assert_allclose(model.decision_function(query), whole.decision_function(query), rtol=1e-9, atol=1e-9)
    whole.fit(support[:10], names[:10])
    assert whole.classes_.tolist() == ["ant", "cat"]


def test_tensors_in_tensors_out() -> None:
    query, support, names = arrays(np.float32)
    labels = torch.from_numpy(np.searchsorted(np.sort(NAMES), names)) * 10
    model = FewShotClassifier(LSSVM()).fit(torch.from_numpy(support), labels)
    predicted = model.predict(torch.from_numpy(query))
    assert isinstance(predicted, torch.Tensor)
    assert set(predicted.tolist()) <= {0, 10, 20}
    scores = model.decision_function(torch.from_numpy(query))
    assert isinstance(scores, torch.Tensor)
    assert scores.dtype == torch.float32
    assert isinstance(model.decision_function(query), np.ndarray)
    assert isinstance(FewShotClassifier(LSSVM()).fit(support, names).predict(torch.from_numpy(query)), np.ndarray)


def test_accepts_lists() -> None:
    model = FewShotClassifier(Prototype()).fit([[0, 0], [4, 4]], ["a", "b"])
    assert model.predict([[1, 0], [3, 5]]).tolist() == ["a", "b"]


def test_bad_input() -> None:
    query, support, names = arrays()
    model = FewShotClassifier(LSSVM())
    with pytest.raises(ValueError, match="call fit first"):
        model.predict(query)
    with pytest.raises(ValueError, match="y: expected one label"):
        model.fit(support, names[:3])
    with pytest.raises(ValueError, match=r"X: expected \[rows, dim\]"):
        model.fit(support[0], names)
    with pytest.raises(ValueError, match=r"y: expected \[rows\]"):
        model.fit(support, names[:, None])
    model.fit(support, names)
    with pytest.raises(ValueError, match="X: expected 10 features as in fit"):
        model.predict(query[:, :3])
    with pytest.raises(ValueError, match="X: expected 10 features as before"):
        model.partial_fit(support[:, :3], names)
    with pytest.raises(ValueError, match="support: expected finite"):
        model.fit(np.full_like(support, np.nan), names)
    with pytest.raises(ValueError, match="at least two"):
        FewShotClassifier(LSSVM()).fit(support[:1], names[:1]).predict(query)
