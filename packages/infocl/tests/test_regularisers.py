"""Identities of the regularisers and losses (section 12 of the specification)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from infocl import LowerBoundRegularizer, ReconstructionRegularizer, information_estimate, lower_bound
from infocl.lars import Lars
from infocl.losses import barlow_twins, byol_loss, cross_correlation, nt_xent
from infocl.regularisers import ViewDistanceRegularizer, feature_statistics, median_scale, scale_of_bandwidth


def rows(count=8, dim=5, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 100), st.floats(0.001, 3))
def test_the_bound_by_brute_force(count, dim, seed, rho):
    mu = 3 * rows(count, dim, seed)
    z = mu + 0.1 * rows(count, dim, seed + 1)
    total = 0.0
    for a in range(count):
        total += math.log(sum(math.exp(-rho * float((z[a] - mu[b]).square().sum())) for b in range(count)))
    assert float(lower_bound(z, mu, rho)) == pytest.approx(-total / count, abs=1e-9)


def test_limits_of_the_bound():
    mu = rows()
    z = mu + 0.1 * rows(seed=1)
    noise = (z - mu).square().sum(1).mean()
    torch.testing.assert_close(lower_bound(1e4 * mu + (z - mu), 1e4 * mu), 0.05 * noise, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(lower_bound(z[:1], mu[:1]), 0.05 * (z[0] - mu[0]).square().sum())
    same = torch.zeros_like(mu)
    torch.testing.assert_close(lower_bound(same, same), torch.tensor(-math.log(8), dtype=torch.float64))
    assert float(lower_bound(z, mu)) <= float(0.05 * noise)
    torch.testing.assert_close(lower_bound(3 * z, 3 * mu), lower_bound(z, mu, 0.05 * 9))


def test_invariances_of_the_bound():
    mu = rows()
    z, order = mu + 0.1 * rows(seed=1), torch.randperm(8)
    rotation = torch.linalg.qr(rows(5, 5, 3))[0]
    for one, other in ((z + 2, mu + 2), (z @ rotation, mu @ rotation), (z[order], mu[order])):
        torch.testing.assert_close(lower_bound(one, other), lower_bound(z, mu))


def test_gradients_of_the_bound():
    mu, z = (rows(4, 3, seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lower_bound, (z, mu))
    gradients = torch.autograd.grad(lower_bound(z, mu), (z, mu))
    torch.testing.assert_close(sum(part.sum(0) for part in gradients), torch.zeros(3, dtype=torch.float64))
    # Raising the bound drives rows apart
    before = torch.pdist(mu.detach()).mean()
    after = torch.pdist((mu + 0.1 * gradients[1]).detach()).mean()
    assert float(after) > float(before)


def test_the_estimate_stays_below_the_information_of_a_gaussian():
    torch.manual_seed(0)
    sigma, spread, dim = 1.0, 2.0, 2
    exact = dim / 2 * math.log(1 + spread**2 / sigma**2)
    estimates = []
    for _ in range(200):
        mu = spread * torch.randn(64, dim)
        estimates.append(float(information_estimate(mu + sigma * torch.randn_like(mu), mu, 1 / (2 * sigma**2))))
    mean = sum(estimates) / len(estimates)
    assert 0.5 * exact < mean < exact
    assert max(estimates) <= math.log(64)


def test_half_precision_is_computed_in_full():
    mu, z = rows().half(), (rows() + 0.1).half()
    assert lower_bound(z, mu).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        inside = lower_bound(z.float(), mu.float())
    torch.testing.assert_close(inside, lower_bound(z.float(), mu.float()), rtol=0, atol=0)


def broadcast(z, mu, rho=0.05):
    """The bound as it is usually written, with a tensor of rows x rows x dim."""
    return -(-rho * (z[:, None] - mu[None]).square().sum(2)).logsumexp(1).mean()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(1, 20), st.integers(0, 100), st.floats(0.001, 5), st.floats(0, 100))
def test_matrix_and_broadcast_form_are_the_same_with_their_gradients(count, dim, seed, rho, shift):
    mu = 2 * rows(count, dim, seed) + shift
    z = mu + 0.1 * rows(count, dim, seed + 1)
    found, wanted = [], []
    for function, results in ((lower_bound, found), (broadcast, wanted)):
        leaves = z.clone().requires_grad_(), mu.clone().requires_grad_()
        value = function(*leaves, rho)
        results += [value.detach(), *torch.autograd.grad(value, leaves)]
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("scale", [0.3, 3.0, 100.0])
@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_float32_is_as_exact_as_the_broadcast_form(scale, shift):
    mu = scale * rows(64, 128, 1) + shift
    z = mu + 0.1 * rows(64, 128, 2)
    # Both see the same float32 inputs
    exact = float(lower_bound(z.float().double(), mu.float().double()))
    ours, theirs = (abs(float(f(z.float(), mu.float())) - exact) for f in (lower_bound, broadcast))
    assert ours <= 2 * theirs + 1e-6 * max(1, abs(exact))


def test_no_tensor_is_larger_than_rows_times_rows():
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes.extend(
                part.numel()
                for part in (result if isinstance(result, tuple) else (result,))
                if isinstance(part, torch.Tensor)
            )
            return result

    mu, z = rows(40, 30, 1).requires_grad_(), rows(40, 30, 2).requires_grad_()
    with Sizes():
        lower_bound(z, mu).backward()
    assert max(sizes) == 40 * 40


def test_statistics_of_features():
    h = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [0.0, 0.0]])
    found = feature_statistics(h)
    assert float(found["norm"]) == pytest.approx(10 / 3)
    assert float(found["participation_ratio"]) == pytest.approx(1)
    wide = rows(2000, 6)
    assert float(feature_statistics(wide)["participation_ratio"]) == pytest.approx(6, abs=0.1)
    few = rows(5, 40)
    values = torch.linalg.eigvalsh(torch.cov(few.T))
    wanted = values.sum() ** 2 / values.square().sum()
    assert float(feature_statistics(few)["participation_ratio"]) == pytest.approx(float(wanted))
    assert float(feature_statistics(torch.ones(4, 3))["participation_ratio"]) == 0


def test_the_median_scale_of_half_precision_and_of_equal_rows():
    torch.testing.assert_close(median_scale(rows().bfloat16()), median_scale(rows().bfloat16().float()))
    assert median_scale(rows().bfloat16()).dtype == torch.float32
    assert float(median_scale(torch.ones(5, 3))) == pytest.approx(0.5e12)


def test_options_of_scale_and_noise():
    assert scale_of_bandwidth(math.sqrt(10)) == pytest.approx(0.05)
    mu = rows(40, 6)
    distance = float(torch.pdist(mu).median())
    assert float(median_scale(mu)) == pytest.approx(1 / (2 * distance**2))
    views, noisy = [[mu]], [[mu + 0.1]]
    by_median = LowerBoundRegularizer(rho="median", weights=(1.0,))(views, noisy)[0]
    torch.testing.assert_close(by_median, -lower_bound(mu + 0.1, mu, 1 / (2 * distance**2)))
    unit = LowerBoundRegularizer(weights=(1.0,), normalise=True)
    torch.testing.assert_close(unit([[7 * mu]], [[7 * mu]])[0], unit(views, views)[0])
    torch.manual_seed(0)
    relative = LowerBoundRegularizer(0.5, relative=True).noisy([1000 * rows(4000, 3)])[0] - 1000 * rows(4000, 3)
    assert float(relative.std()) == pytest.approx(500, rel=0.03)
    plain = LowerBoundRegularizer(0.5).noisy([torch.zeros(4000, 3)])[0]
    assert float(plain.std()) == pytest.approx(0.5, rel=0.03)
    assert LowerBoundRegularizer(0.0).noisy([mu])[0] is mu


def test_stages_are_weighed_and_views_stacked():
    views = [[rows(4, 3, 1), rows(4, 6, 2)], [rows(4, 3, 3), rows(4, 6, 4)]]
    noisy = [[part + 0.1 for part in view] for view in views]
    term, log = LowerBoundRegularizer(weights=(0.5, 1.0))(views, noisy)
    mu = [torch.cat([views[0][s], views[1][s]]) for s in range(2)]
    wanted = -0.5 * lower_bound(mu[0] + 0.1, mu[0]) - lower_bound(mu[1] + 0.1, mu[1])
    torch.testing.assert_close(term, wanted)
    torch.testing.assert_close(log["information_1"], information_estimate(mu[1] + 0.1, mu[1]))
    with pytest.raises(ValueError, match="3 stages"):
        LowerBoundRegularizer()(views, noisy)


def test_reconstruction_adds_the_views():
    decoder = nn.Linear(3, 7).double()
    h, images = [rows(4, 3, 1), rows(4, 3, 2)], [rows(4, 7, 3), rows(4, 7, 4)]
    regulariser = ReconstructionRegularizer(decoder)
    wanted = sum(F.mse_loss(decoder(each), image) for each, image in zip(h, images, strict=True))
    torch.testing.assert_close(regulariser(h, images)[0], wanted)
    once, twice = (regulariser(h[:1] * n, images[:1] * n)[0] for n in (1, 2))
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_likelihoods_of_the_reconstruction(likelihood):
    decoder, h, images = nn.Linear(3, 7).double(), rows(4, 3, 1), rows(4, 7, 3).sigmoid()
    term, log = ReconstructionRegularizer(decoder, likelihood)([h], [images])
    decoded = decoder(h).detach()
    wanted = {
        "gaussian": (decoded - images).square().mean(),
        "laplace": (decoded - images).abs().mean(),
        "bernoulli": -(images * decoded.sigmoid().log() + (1 - images) * (-decoded).sigmoid().log()).mean(),
    }[likelihood]
    torch.testing.assert_close(term.detach(), wanted)
    torch.testing.assert_close(log["reconstruction"], wanted)
    explained = images.var(0, unbiased=False).mean() / (decoded - images).square().mean()
    torch.testing.assert_close(log["information"], 7 / 2 * explained.log())


def test_a_linear_autoencoder_reaches_the_error_of_principal_components():
    torch.manual_seed(0)
    images = rows(60, 6) @ torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5, 0.2], dtype=torch.float64))
    images = images - images.mean(0)
    encoder, decoder = nn.Linear(6, 2, bias=False).double(), nn.Linear(2, 6, bias=False).double()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14)
    regulariser = ReconstructionRegularizer(decoder)

    def closure():
        optimizer.zero_grad()
        loss = regulariser([encoder(images)], [images])[0]
        loss.backward()
        return loss

    optimizer.step(closure)
    values = torch.linalg.svdvals(images).square()
    assert float(closure().detach()) == pytest.approx(float(values[2:].sum() / images.numel()), rel=1e-5)


def test_views_distance():
    one, other = ([rows(4, 3, seed), rows(4, 6, seed + 1), rows(4, 5, seed + 2)] for seed in (1, 4))
    term, log = ViewDistanceRegularizer()([one, other])
    torch.testing.assert_close(term, (one[2] - other[2]).square().mean())
    assert log == feature_statistics(torch.cat([one[2], other[2]]))
    assert ViewDistanceRegularizer().noisy(one)[1] is one[1]
    assert ViewDistanceRegularizer(0.1).noisy(one)[1] is not one[1]
    with pytest.raises(ValueError, match="two"):
        ViewDistanceRegularizer()([one])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(broken):
    h = rows(4, 3)
    h[1, 2] = broken
    for call in (
        lambda: LowerBoundRegularizer(weights=(1.0,))([[h]], [[h]]),
        lambda: ReconstructionRegularizer(nn.Linear(3, 3).double())([h], [rows(4, 3)]),
        lambda: ViewDistanceRegularizer()([[h], [rows(4, 3)]]),
    ):
        with pytest.raises(ValueError, match="expected finite"):
            call()


def test_nt_xent_by_loops():
    one, other = rows(5, 4, 1), rows(5, 4, 2)
    z = F.normalize(torch.cat([one, other]), dim=1)
    total = 0.0
    for a in range(10):
        others = [float(z[a] @ z[b]) / 0.5 for b in range(10) if b != a]
        total += math.log(sum(map(math.exp, others))) - float(z[a] @ z[(a + 5) % 10]) / 0.5
    assert float(nt_xent(one, other)) == pytest.approx(total / 10)
    torch.testing.assert_close(nt_xent(one, other), nt_xent(other, 3 * one))
    same = torch.ones(5, 4, dtype=torch.float64)
    assert float(nt_xent(same, same)) == pytest.approx(math.log(9))


def test_byol_and_barlow():
    one, other = rows(6, 4, 1), rows(6, 4, 2)
    assert float(byol_loss(one, other, 2 * other, one)) == pytest.approx(0, abs=1e-12)
    assert float(byol_loss(one, other, -other, -one)) == pytest.approx(8)
    torch.testing.assert_close(cross_correlation(2 * one + 1, other), cross_correlation(one, other))
    torch.testing.assert_close(cross_correlation(one, one).diagonal(), torch.full((4,), 5 / 6, dtype=torch.float64))
    by_hand = cross_correlation(one, other) - torch.eye(4)
    weights = 0.01 + 0.99 * torch.eye(4)
    torch.testing.assert_close(barlow_twins(one, other), (by_hand.square() * weights).sum())


@pytest.mark.parametrize("published", [True, False])
def test_lars(published):
    weight, zero = nn.Parameter(rows(3, 4)), nn.Parameter(torch.zeros(5, dtype=torch.float64))
    start = weight.detach().clone()
    optimizer = Lars([weight, zero], 0.5, weight_decay=0.0, published=published)
    weight.grad, zero.grad = rows(3, 4, 1), torch.ones(5, dtype=torch.float64)
    optimizer.step()
    assert float((weight - start).detach().norm()) == pytest.approx(0.5 * 1e-3 * float(start.norm()))
    # A vector at zero never moves in the published form
    assert bool(zero.detach().eq(0).all()) == published


@pytest.mark.parametrize("call", [
    lambda: lower_bound(rows(3), rows(4)),
    lambda: lower_bound(rows(), rows(), 0.0),
    lambda: LowerBoundRegularizer(-1.0),
    lambda: LowerBoundRegularizer(rho="mean"),
    lambda: LowerBoundRegularizer(rho=-0.1),
    lambda: LowerBoundRegularizer(weights=(0, 0)),
    lambda: ReconstructionRegularizer(nn.Identity(), "poisson"),
    lambda: ReconstructionRegularizer(nn.Identity())([rows(3)], [rows(2)]),
    lambda: scale_of_bandwidth(0.0),
    lambda: nt_xent(rows(), rows(), 0.0),
    lambda: nt_xent(rows(3), rows(4)),
    lambda: Lars([nn.Parameter(rows())], -1.0),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()
