"""The theory, by enumeration and in closed form (section 8)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infocl.gaussian import ALPHA, JointGaussian, least_squared_error, shared_and_private
from infocl.theorems import (
    depends_through_v1,
    exclusive_or,
    is_shared,
    is_sufficient,
    lemma_1,
    lemma_2,
    noisy_shared,
    partitions,
    structured,
    theorem_1,
    theorem_2,
)
from infocl.theory import bayes_error, co_information, minimal_sufficient, mutual_information, with_representation

SEEDS = st.integers(0, 10_000)


def random_table(seed, shape=(4, 3, 3)):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(math.prod(shape), 0.5)).reshape(shape)


def test_a_worked_example():
    """v1 = (s, n) of two fair bits, v2 = s, T = n: keeping what is shared loses all of the task, ln 2."""
    table = np.zeros((4, 2, 2))
    for s, n in np.ndindex(2, 2):
        table[2 * s + n, s, n] = 1 / 4
    assert minimal_sufficient(table) == [0, 0, 1, 1]
    found = theorem_1(table, [0, 1, 2, 3])
    assert found.v1 == pytest.approx(math.log(2))
    assert found.minimal == pytest.approx(0, abs=1e-12)
    assert theorem_2(table, [0, 0, 1, 1]).error == pytest.approx(0.5)
    assert theorem_2(table, [0, 1, 2, 3]).error == pytest.approx(0)


def test_partitions_are_all_and_each_once():
    assert [len({tuple(labels) for labels in partitions(n)}) for n in range(1, 7)] == [1, 2, 5, 15, 52, 203]


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_the_minimal_sufficient_partition_by_enumeration(seed):
    """Of all sufficient partitions it has the least I(z; v1), and every other one refines it."""
    table = structured(np.random.default_rng(seed), 2, 2, 2, 2)
    minimal = minimal_sufficient(table)
    assert is_sufficient(table, minimal)
    sizes = {}
    for labels in partitions(4):
        if is_sufficient(table, labels):
            sizes[tuple(labels)] = mutual_information(with_representation(table, labels), 0, 1)
            assert len(set(zip(labels, minimal, strict=True))) == len(set(labels))
    assert min(sizes, key=sizes.__getitem__) == tuple(minimal)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_what_always_holds(seed):
    """Equation 2, Lemma 2, Theorem 2's bound, and the order by data processing; for any table and representation."""
    table = random_table(seed)
    least = bayes_error(with_representation(table, range(4)))
    for labels in partitions(4):
        z = with_representation(table, labels)
        assert mutual_information(z, 0, 2) <= mutual_information(table, 0, 1) + 1e-12
        assert mutual_information(z, 0, 3) <= mutual_information(table, 0, 2) + 1e-12
        assert lemma_2(table, labels) == pytest.approx(0, abs=1e-12)
        found = theorem_2(table, labels)
        assert least - 1e-12 <= found.error <= found.bound + 1e-12
        assert found.bound <= 1 - 1 / 3 + 1e-12


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_the_theorems_where_their_assumptions_hold(seed):
    table = structured(np.random.default_rng(seed), 2, 2, 3, 3)
    assert depends_through_v1(table)
    assert is_shared(table)
    errors = []
    for labels in filter(lambda labels: is_sufficient(table, labels), partitions(4)):
        assert lemma_1(table, labels) == pytest.approx(0, abs=1e-12)
        found = theorem_1(table, labels)
        assert found.v1 == pytest.approx(found.minimal_plus_private, abs=1e-12)
        assert found.sufficient == pytest.approx(found.minimal_plus_gain, abs=1e-12)
        assert found.v1 + 1e-12 >= found.sufficient >= found.minimal - 1e-12
        assert found.loss == pytest.approx(found.corrected_loss, abs=1e-12)
        bounds = theorem_2(table, labels)
        assert bounds.bound == pytest.approx(bounds.sufficient_bound, abs=1e-12)
        assert bounds.bound <= bounds.minimal_bound + 1e-12
        errors.append(bounds.error)
    least = theorem_2(table, minimal_sufficient(table))
    assert least.bound == pytest.approx(least.minimal_bound, abs=1e-12)
    assert max(errors) == pytest.approx(least.error, abs=1e-12)


def test_the_counter_example_to_lemma_1():
    """T = a xor b depends on both views: the lemma fails, and so do both of the theorem's equalities."""
    table = exclusive_or()
    assert not depends_through_v1(table)
    assert is_shared(table)
    minimal = minimal_sufficient(table)
    assert minimal == [0, 0, 1, 1]
    assert co_information(table, 0, 1, 2) == pytest.approx(-math.log(2))
    assert lemma_1(table, minimal) == pytest.approx(math.log(2))
    found = theorem_1(table, range(4))
    assert found.v1 == pytest.approx(0, abs=1e-12)
    assert found.minimal_plus_private == pytest.approx(math.log(2))


@pytest.mark.parametrize("error", [0.05, 0.2, 0.4])
def test_the_counter_example_to_the_size_of_the_loss(error):
    """What is shared arrives with errors: the loss is less than I(v1; T | v2), and the corrected form is exact."""
    table = noisy_shared(error)
    assert depends_through_v1(table)
    assert not is_shared(table)
    assert minimal_sufficient(table) == [0, 0, 1, 1]
    found = theorem_1(table, range(4))
    assert lemma_1(table, [0, 0, 1, 1]) == pytest.approx(0, abs=1e-12)
    assert found.minimal_plus_private - found.v1 > 1e-3
    assert found.loss == pytest.approx(found.corrected_loss, abs=1e-12)


def test_without_errors_it_is_no_counter_example():
    found = theorem_1(noisy_shared(0.0), range(4))
    assert found.v1 == pytest.approx(found.minimal_plus_private, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_the_corrected_loss_for_any_sharing(seed):
    """T ~ p(T | v1) with v1, v2 of any joint distribution whose rows come in pairs."""
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.ones(3), 2)[[0, 0, 1, 1]] * rng.dirichlet(np.ones(4))[:, None]
    table = rows[:, :, None] * rng.dirichlet(np.ones(3), 4)[:, None]
    assert depends_through_v1(table)
    found = theorem_1(table, range(4))
    assert found.loss == pytest.approx(found.corrected_loss, abs=1e-12)


# Gaussian closed forms


def gaussian(*noise):
    return shared_and_private(
        2, 2, noise=noise or (0.0, 0.0), task_shared=[1.0, -0.5], task_private=[0.7, 0.2], task_noise=0.5
    )


def test_information_of_a_gaussian_channel():
    """z = v + sigma eps, v ~ N(0, s^2 I): d / 2 ln(1 + s^2 / sigma^2) (section 8)."""
    views = JointGaussian(4.0 * np.eye(3), {"v1": range(3)})
    z = views.with_representation(np.eye(3), 0.5)
    assert z.mutual_information("z", "v1") == pytest.approx(1.5 * math.log(1 + 4 / 0.25))
    assert views.entropy("v1") == pytest.approx(1.5 * math.log(2 * math.pi * math.e * 4))


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_identities_of_gaussian_information(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(6, 6)) + 0.5 * np.eye(6)
    joint = JointGaussian(root @ root.T, {"v1": range(2), "v2": range(2, 4), "T": range(4, 6)})
    information = joint.mutual_information
    assert information("v1", "v2") == pytest.approx(information("v2", "v1"), rel=1e-6)
    assert information("v1", "T", given=["v2"]) >= -1e-9
    chain = information("v2", "T") + information("v1", "T", given=["v2"])
    both = JointGaussian(joint.covariance, {"v": range(4), "T": range(4, 6)}).mutual_information("v", "T")
    assert chain == pytest.approx(both, rel=1e-6, abs=1e-9)
    assert joint.co_information("v1", "v2", "T") == pytest.approx(joint.co_information("T", "v1", "v2"), abs=1e-7)


def test_theorem_1_for_gaussian_views():
    """Without noise zmin = s is a function of both views; its loss is I(v1; T | v2) to rounding."""
    joint = gaussian()
    weight = joint.minimal_sufficient()
    assert weight.shape == (2, 4)
    assert np.allclose(weight[:, 2:], 0)
    z = joint.with_representation(weight)
    private = joint.conditional_covariance(["T"], ["v2"])[0, 0], joint.conditional_covariance(["T"], ["v1"])[0, 0]
    loss = joint.mutual_information("v1", "T") - z.mutual_information("z", "T")
    assert loss == pytest.approx(0.5 * math.log(private[0] / private[1]))


def test_a_noisy_second_view_loses_less():
    joint = gaussian(0.0, 0.3)
    z = joint.with_representation(joint.minimal_sufficient())
    assert z.mutual_information("z", "v2") == pytest.approx(joint.mutual_information("v1", "v2"))
    loss = joint.mutual_information("v1", "T") - z.mutual_information("z", "T")
    private = joint.mutual_information("v1", "T", given=["v2"])
    assert loss < private
    assert loss == pytest.approx(private - z.mutual_information("z", "T", given=["v2"]))


def test_more_information_of_the_input_is_more_of_the_task():
    """The reason for the paper's terms: from zmin towards v1, I(z; v1) and I(z; T) rise, and the error falls."""
    joint = gaussian(0.1, 0.1)
    least = joint.minimal_sufficient()
    found = []
    for share in (0.0, 0.3, 1.0, 3.0):
        z = joint.with_representation(np.vstack([least, share * np.eye(4)[2:]]), 0.2)
        found.append([z.mutual_information("z", "v1"), z.mutual_information("z", "T"), -z.entropy("T", given=["z"])])
    assert np.all(np.diff(np.array(found), axis=0) > 0)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_theorem_3_is_exact_for_gaussians(sigma):
    z = gaussian(0.2, 0.2).with_representation(np.random.default_rng(0).normal(size=(3, 4)), sigma)
    entropy = z.entropy("T", given=["z"])
    assert least_squared_error(entropy) == pytest.approx(z.conditional_covariance(["T"], ["z"])[0, 0])


def test_theorem_3_by_simulation():
    joint = gaussian(0.2, 0.2)
    z = joint.with_representation(np.eye(4)[:2], 0.3)
    rng = np.random.default_rng(0)
    sample = rng.multivariate_normal(np.zeros(len(z.covariance)), z.covariance, 40_000)
    inputs, target = sample[:, list(z.parts["z"])], sample[:, z.parts["T"][0]]
    coefficients = np.linalg.lstsq(inputs, target, rcond=None)[0]
    error = np.mean((target - inputs @ coefficients) ** 2)
    assert error == pytest.approx(least_squared_error(z.entropy("T", given=["z"])), rel=0.03)


def test_constants_of_theorem_3():
    """Variance over exp(2 H): a uniform of width w has w^2 / 12 and ln w, a Laplace of scale b 2 b^2 and 1 + ln 2 b."""
    assert least_squared_error(math.log(3), "uniform") == pytest.approx(9 / 12)
    assert least_squared_error(1 + math.log(2 * 0.7), "laplace") == pytest.approx(2 * 0.49)
    assert set(ALPHA) == {"uniform", "laplace", "gaussian"}


@pytest.mark.parametrize(("call", "message"), [
    (lambda: theorem_1(noisy_shared(), [0, 0, 0, 0]), "sufficient representation"),
    (lambda: with_representation(exclusive_or(), [0, 1]), "a label for each of 4"),
    (lambda: with_representation(2 * exclusive_or(), range(4)), "add up to 1"),
    (lambda: JointGaussian(np.ones((2, 3)), {"v1": range(2)}), "symmetric"),
    (lambda: JointGaussian(np.eye(2), {"v1": range(1)}), "each of 2 components"),
    (lambda: gaussian().mutual_information("v1", "v3"), "v3"),
    (lambda: gaussian().with_representation(np.eye(3)), r"\[dim, 4\]"),
    (lambda: gaussian().entropy("v1", "v2"), "add noise"),
    (lambda: least_squared_error(0.0, "cauchy"), "kind: expected"),  # pyright: ignore[reportArgumentType]
    (lambda: shared_and_private(1, 1, noise=(0, 0), task_shared=[], task_private=[1], task_noise=1), "1 and 1 weights"),
])  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
