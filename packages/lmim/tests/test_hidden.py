"""Losses of hidden cells alone are the losses of all cells under the mask (sections 2, 3.2 and 13)."""

from __future__ import annotations

import pytest
import torch

from lmim import LocalMim
from lmim.decoder import TapDecoder, doublings, rescaling_head
from lmim.hidden import cell_predictions, cells_by_token, final_tokens
from lmim.masking import mask_from_noise, masked_mean, rescale_mask


def small(**changes):
    torch.manual_seed(0)
    settings = {"image": 32, "patch": 8, "dim": 8, "depth": 7, "heads": 2, "decoder_dim": 16, "decoder_heads": 2}
    return LocalMim(**(settings | {"bins": 4, "channels": 2} | changes)).double()


def inputs(count=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in ((count, 2, 32, 32), (count, 16))]


def test_worked_example():
    """One token of a head at twice the scale, by the definition of a transposed convolution."""
    head = rescaling_head(4, 3, 2).double()
    token = torch.randn(4, dtype=torch.float64)
    found = cell_predictions(head, token)
    middle = torch.einsum("c,cokl->klo", token, head[0].weight) + head[0].bias
    wanted = torch.einsum("klo,do->kld", middle, head[1].weight[:, :, 0, 0]) + head[1].bias
    torch.testing.assert_close(found, wanted.flatten(0, 1))


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_heads_are_maps_of_tokens(scale):
    """A grid through the convolutions is each token through linear maps, its cells put side by side."""
    head = rescaling_head(16, 5, scale).double()
    maps = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    wanted = head(maps).flatten(2).mT
    found = cell_predictions(head, maps.flatten(2).mT)
    torch.testing.assert_close(found, cells_by_token(wanted, 4, scale))


@pytest.mark.parametrize("scale", [0.5, 0.25])
def test_pooling_and_the_last_convolution_commute(scale):
    head = rescaling_head(8, 5, scale).double()
    maps = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(head[0](head[1](maps)), head(maps))


@pytest.mark.parametrize("changes", [
    {}, {"target": "pixels"}, {"target": "normalised-pixels", "scales": (8, 2, 2, 0.25)}, {"decoder_depth": 2},
    {"taps": (2,), "scales": (1,)}, {"taps": (0, 6), "scales": (0.5, 4)}, {"fusion": True, "scales": (2,)},
    {"isolate_stages": True}, {"hog_bias": True},
])  # fmt: skip
@pytest.mark.parametrize("ratio", [0.75, 0.3])
def test_losses_and_gradients_are_those_of_the_whole(changes, ratio):
    model, (images, noise) = small(**changes), inputs()
    weights = torch.arange(1.0, 1 + len(model.scales), dtype=torch.float64)
    whole, own = model(images, ratio, noise).losses, model.losses(images, ratio, noise)
    torch.testing.assert_close(own, whole, rtol=1e-12, atol=1e-12)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad((weights * whole).sum(), parameters, allow_unused=True)
    found = torch.autograd.grad((weights * own).sum(), parameters, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_by_a_double_loop():
    model, (images, noise) = small(), inputs()
    found = model(images, 0.75, noise)
    for tap, scale in enumerate((4, 2, 1, 0.5)):
        weights = rescale_mask(mask_from_noise(noise, 0.75).mask, scale)
        total = mass = 0.0
        for image in range(3):
            for cell in range(weights.shape[1]):
                error = (found.predictions[tap][image, cell] - found.targets[tap][image, cell]).square().mean()
                total, mass = total + float(weights[image, cell] * error.detach()), mass + float(weights[image, cell])
        assert float(model.losses(images, 0.75, noise)[tap].detach()) == pytest.approx(total / mass, rel=1e-10)


def test_perfect_predictions_cost_nothing_and_visible_cells_do_not_count():
    mask = mask_from_noise(torch.rand(2, 16), 0.75).mask
    target = torch.randn(2, 16, 3)
    assert float(masked_mean((target - target).square().mean(dim=2), mask)) == 0
    wrong = target + (1 - mask)[:, :, None] * torch.randn(2, 16, 3)
    assert float(masked_mean((wrong - target).square().mean(dim=2), mask)) == 0


def test_the_order_of_the_batch_does_not_matter():
    model, (images, noise) = small(), inputs(4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model.losses(images[order], 0.75, noise[order]), model.losses(images, 0.75, noise))


def test_the_order_of_visible_tokens_does_not_matter():
    """The same mask from other noise: visible tokens are stored in another order."""
    model, (images, noise) = small(), inputs()
    mask = mask_from_noise(noise, 0.75).mask
    other = torch.where(mask.bool(), 0.5 + torch.rand_like(noise) / 2, torch.rand_like(noise) / 2)
    assert mask_from_noise(other, 0.75).mask.equal(mask)
    assert not mask_from_noise(other, 0.75).keep.equal(mask_from_noise(noise, 0.75).keep)
    torch.testing.assert_close(model.losses(images, 0.75, other), model.losses(images, 0.75, noise))
    for one, same in zip(model(images, 0.75, other).predictions, model(images, 0.75, noise).predictions, strict=True):
        torch.testing.assert_close(one, same)


def test_cells_of_a_token_depend_on_its_decoder_output_alone():
    decoder = TapDecoder(8, 4, 5, 4.0, 16, 2).double()
    maps = torch.randn(1, 16, 4, 4, dtype=torch.float64, requires_grad=True)
    rows = decoder.pred(maps)[0, :, 4:8, 8:12]
    (gradient,) = torch.autograd.grad(rows.sum(), maps)
    assert float(gradient[0, :, 1, 2].abs().min()) > 0
    assert int(gradient.abs().sum(dim=1).count_nonzero()) == 1


def test_decoders_as_one_give_the_tokens_of_each():
    decoders = [TapDecoder(6, 4, 5, scale, 8, 2).double() for scale in (4.0, 2.0, 1.0)]
    mask = mask_from_noise(torch.rand(2, 16), 0.5)
    latents = [torch.randn(2, 9, 6, dtype=torch.float64) for _ in decoders]
    full = [decoder.tokens(latent, mask.restore) for decoder, latent in zip(decoders, latents, strict=True)]
    for found, wanted in zip(final_tokens(decoders, latents, mask, all_tokens=True), full, strict=True):
        torch.testing.assert_close(found, wanted)
    for found, wanted in zip(final_tokens(decoders, latents, mask, all_tokens=False), full, strict=True):
        torch.testing.assert_close(found, wanted.gather(1, mask.hidden[:, :, None].expand(-1, -1, 8)))


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_near(precision):
    model = small().float()
    images, noise = (part.float() for part in inputs())
    wanted = model.losses(images, 0.75, noise)
    with torch.autocast("cpu", precision):
        found = model.losses(images, 0.75, noise)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0.03, atol=0.01)


@pytest.mark.slow
def test_compiled_losses_are_the_same():
    model, (images, noise) = small().float(), inputs()
    compiled = torch.compile(lambda x, drawn: model.losses(x, 0.75, drawn), backend="aot_eager", fullgraph=True)
    found = compiled(images.float(), noise.float())
    torch.testing.assert_close(found, model.losses(images.float(), 0.75, noise.float()))


@pytest.mark.parametrize("call", [
    lambda: doublings(3.0),
    lambda: doublings(0.0),
    lambda: rescaling_head(8, 3, -1.0),
    lambda: TapDecoder(8, 3, 5, 0.5),
])  # fmt: skip
def test_bad_input(call):
    with pytest.raises(ValueError, match="expected"):
        call()
