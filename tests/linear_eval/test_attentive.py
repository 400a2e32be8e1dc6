"""The attentive probe against torch's own attention; a grid against each of its probes trained alone."""
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core import counter_rng
from core.schedule import warmup_cosine
from linear_eval.dense.attentive import AttentiveConfig, AttentivePool, LabeledPatches, attentive, fit_attentive, logits

CPU = torch.device("cpu")


def by_torch(probe: AttentivePool, x: torch.Tensor) -> torch.Tensor:
    """With keys and values of every patch, by scaled_dot_product_attention.  B,n,D → B,C"""
    keys, values = (torch.einsum("bnd,hed->bhne", x, w) for w in (probe.key, probe.value))
    queries = probe.query[None, :, None].expand(len(x), -1, -1, -1)
    pooled = F.scaled_dot_product_attention(queries, keys, values)  # B,h,1,e
    return F.linear(pooled.flatten(1), probe.weight, probe.bias)


def probes(count: int, dim: int, classes: int) -> list[AttentivePool]:
    made = [AttentivePool(dim, classes, torch.Generator().manual_seed(i)).double() for i in range(count)]
    for i, probe in enumerate(made):
        for parameter in probe.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9 + i)).double()
    return made


@pytest.mark.parametrize(("dim", "heads"), [(192, 3), (40, 1), (200, 2), (130, 2)])
def test_it_is_cross_attention_of_one_query_with_its_gradients(dim, heads):
    some = probes(2, dim, 5)
    assert some[0].heads == heads
    x = torch.randn(4, 7, dim, generator=torch.Generator().manual_seed(1)).double()
    found = logits(some, x)
    expected = torch.stack([by_torch(probe, x) for probe in some])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    parameters = [p for probe in some for p in probe.parameters()]
    for ours, theirs in zip(*(torch.autograd.grad(z.sin().sum(), parameters) for z in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def marked_images(count: int, seed: int) -> LabeledPatches:
    """Of 12 patches of noise one has a mark, and beside the mark the class: the mean of patches hardly shows it."""
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((count, 12, 16)).astype(np.float16), rng.integers(0, 3, count)
    at = rng.integers(0, 12, count)
    x[np.arange(count), at, 15] = 8
    x[np.arange(count), at, labels] += 3
    return LabeledPatches(x, labels)


def test_a_grid_trains_each_probe_as_if_it_were_alone():
    train = marked_images(90, 0)
    config = AttentiveConfig([0.003, 0.03], [0.0, 0.1], epochs=2, batch_size=32, seed=4)
    fitted = fit_attentive(train, 3, config, CPU)
    flat = torch.from_numpy(train.x).float().flatten(0, 1)
    x = (torch.from_numpy(train.x).float() - flat.mean(0)) / flat.std(0, correction=0)
    y, steps = torch.from_numpy(train.labels), 6
    for probe, (rate, decay) in zip(fitted.probes, config.grid, strict=True):
        alone = AttentivePool(16, 3, torch.Generator().manual_seed(4))
        optimizer = torch.optim.AdamW(alone.parameters(), lr=rate, weight_decay=decay)
        step = 0
        for epoch in range(2):
            for rows in counter_rng.permutation(4, epoch, 90).split(32):
                step += 1
                optimizer.param_groups[0]["lr"] = warmup_cosine(step / steps, rate, 0.1)
                optimizer.zero_grad()
                F.cross_entropy(by_torch(alone, x[rows]), y[rows]).backward()
                optimizer.step()
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(probe.get_parameter(name), parameter, rtol=1e-2, atol=2e-3)


def test_it_finds_what_the_mean_of_patches_hardly_shows_and_outlives_divergence():
    train, validation, test = (marked_images(n, seed) for n, seed in ((600, 1), (150, 2), (150, 3)))
    config = AttentiveConfig([0.01, 1e20], [0.001], epochs=30, batch_size=64)
    result = attentive(train, validation, iter([test.x[:100], test.x[100:]]), 3, config, CPU)
    assert result.chosen["rate"] == 0.01
    assert result.scores.shape == (150, 3)
    np.testing.assert_allclose(result.scores.sum(1), 1, atol=1e-5)
    assert (result.scores.argmax(1) == test.labels).mean() > 0.8
    assert result.selected_on == "150 validation images"


def test_labels_of_test_are_not_even_there_and_all_diverged_is_one_line():
    train, validation = marked_images(64, 1), marked_images(30, 2)
    config = AttentiveConfig([float("inf")], [0.001], epochs=2, batch_size=32)
    with pytest.raises(ValueError, match=r"protocol.attentive.rates: every attentive probe diverged"):
        attentive(train, validation, iter([validation.x]), 3, config, CPU)
