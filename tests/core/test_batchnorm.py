"""Batch normalisation over groups of the batch and over processes equals torch's on the batch it stands for."""
import copy

import pytest
import torch
from processes import on
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from core.batchnorm import SplitBatchNorm, SyncBatchNorm, split_batchnorm, sync_batchnorm
from core.processes import local_rows

C = 6
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}  # sums of some hundred float32 terms, in another order

NORMS = {
    "1d": (lambda: nn.BatchNorm1d(C), (12, C)),
    "1d of sequences": (lambda: nn.BatchNorm1d(C), (12, C, 5)),
    "2d": (lambda: nn.BatchNorm2d(C, eps=1e-3, momentum=0.3), (12, C, 4, 5)),
    "2d without scale and shift": (lambda: nn.BatchNorm2d(C, affine=False), (12, C, 4, 5)),
    "2d without running statistics": (lambda: nn.BatchNorm2d(C, track_running_stats=False), (12, C, 4, 5)),
    "2d, cumulative average": (lambda: nn.BatchNorm2d(C, momentum=None), (12, C, 4, 5)),
    "timm's, with its activation": (lambda: BatchNormAct2d(C, act_layer=nn.SiLU), (12, C, 4, 5)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """The norm with parameters and statistics that are not the initial ones, and an input of no zero mean."""
    torch.manual_seed(1)
    build, shape = NORMS[name]
    norm = build()
    with torch.no_grad():
        for tensor in (*norm.parameters(), *norm.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2)
    return norm, torch.randn(shape) * 3 + 5


def stepped(norm: nn.Module, x: Tensor, upstream: Tensor) -> dict[str, Tensor]:
    """What a training step makes of it: output, gradients, statistics."""
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * upstream).sum().backward()
    gradients = {f"gradient of {name}": p.grad for name, p in norm.named_parameters()}
    return {"output": y.detach(), "gradient": x.grad, **gradients, **dict(norm.named_buffers())}


# ---- groups of one process's batch


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("splits", [1, 3])
def test_split_equals_torch_on_each_group(name, splits):
    norm, x = made(name)
    upstream = torch.randn_like(x)
    groups = [copy.deepcopy(norm) for _ in range(splits)]
    parts = [stepped(g, p, u) for g, p, u in zip(groups, x.chunk(splits), upstream.chunk(splits), strict=True)]
    ours = stepped(split_batchnorm(norm, splits), x, upstream)
    assert ours.pop("num_batches_tracked", None) == parts[0].get("num_batches_tracked")
    for key, value in ours.items():
        each = [part[key] for part in parts]
        if key in ("output", "gradient"):
            expected = torch.cat(each)
        else:  # weights' gradients add up over the groups; running statistics average
            expected = sum(each) if key.startswith("gradient of") else torch.stack(each).mean(0)
        torch.testing.assert_close(value, expected, **ROUNDING)


@pytest.mark.parametrize("replace", [lambda m: split_batchnorm(m, 3), sync_batchnorm])
def test_evaluation_and_names_stay_torchs(replace):
    for name in NORMS:
        norm, x = made(name)
        expected, names = copy.deepcopy(norm).eval()(x), list(norm.state_dict())
        new = replace(norm.eval())
        assert list(new.state_dict()) == names
        assert not new.training
        torch.testing.assert_close(new(x), expected, rtol=0, atol=0)


def test_channels_last_and_half_precision_are_kept():
    norm, x = made("2d")
    x = x.to(memory_format=torch.channels_last)
    full = split_batchnorm(copy.deepcopy(norm), 3)(x)
    assert full.is_contiguous(memory_format=torch.channels_last)
    half = split_batchnorm(norm, 3)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, rtol=2**-7, atol=2**-5)  # inputs near 5 carry 8 bits: ±1/64


def test_replacing_keeps_the_tensors_that_an_optimizer_holds():
    net = nn.Sequential(nn.Conv2d(3, C, 3), nn.BatchNorm2d(C), nn.Sequential(BatchNormAct2d(C)))
    before = list(net.parameters())
    split_batchnorm(net, 2)
    assert [isinstance(m, SplitBatchNorm) for m in (net[1], net[2][0])] == [True, True]
    assert all(a is b for a, b in zip(before, sync_batchnorm(net).parameters(), strict=True))
    assert isinstance(net[2][0], SyncBatchNorm)
    assert isinstance(net[2][0].act, nn.ReLU)


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(ValueError, match=r"batch of 10 .* 4 equal groups"):
        split_batchnorm(nn.BatchNorm2d(C), 4)(torch.randn(10, C, 2, 2))


@pytest.mark.parametrize("name", NORMS)
def test_sync_on_one_process_is_torchs(name):
    norm, x = made(name)
    upstream = torch.randn_like(x)
    expected = stepped(copy.deepcopy(norm), x, upstream)
    torch.testing.assert_close(stepped(sync_batchnorm(norm), x, upstream), expected, rtol=0, atol=0)


# ---- many processes


def synced(name: str, x: Tensor, upstream: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    norm = sync_batchnorm(made(name)[0])
    return stepped(norm, local_rows(x).to(dtype), local_rows(upstream).to(dtype))


def all_synced(cases: list) -> list[dict]:
    return [synced(*case) for case in cases]


def test_sync_on_two_processes_equals_torch_on_the_joined_batch():
    cases, expected = [], []
    for name in NORMS:
        norm, x = made(name)
        cases.append((name, x, torch.randn_like(x), torch.float32))
        expected.append(stepped(norm, x, cases[-1][2]))
    for (name, *_), first, second, joined in zip(cases, *on(2, all_synced, cases), expected, strict=True):
        for key, value in joined.items():
            if key in ("output", "gradient"):
                ours = torch.cat([first[key], second[key]])
            elif key.startswith("gradient of"):
                ours = first[key] + second[key]
            else:
                ours = first[key]
                assert torch.equal(ours, second[key]), f"{name}: {key} differs between processes"
            torch.testing.assert_close(ours, value, **ROUNDING, msg=lambda m, n=name, k=key: f"{n}, {k}: {m}")


def test_sync_is_exact_where_the_mean_dwarfs_the_deviation():
    """E[x²] − E[x]² would lose every digit at 1000 ± 0.1."""
    _, x = made("2d")
    x = x / 30 + 1000
    parts = on(2, all_synced, [("2d", x, torch.ones_like(x), torch.float32)])
    expected = made("2d")[0].double()(x.double())
    # float32 holds 1000 to 6e-5, which is 6e-4 of the deviation; the weight is at most 2
    torch.testing.assert_close(torch.cat([p[0]["output"] for p in parts]).double(), expected, rtol=0, atol=5e-3)


def test_sync_in_half_precision_and_channels_last():
    name = "timm's, with its activation"
    norm, x = made(name)
    x = x.to(memory_format=torch.channels_last)
    upstream = torch.randn_like(x)
    parts = on(2, all_synced, [(name, x, upstream, torch.bfloat16)])
    joined = stepped(norm, x, upstream)
    output = torch.cat([part[0]["output"] for part in parts])
    assert output.dtype == torch.bfloat16
    assert parts[0][0]["output"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output.float(), joined["output"], rtol=2**-6, atol=2**-5)  # inputs near 5: ±1/64
    torch.testing.assert_close(parts[0][0]["running_mean"], joined["running_mean"], rtol=2**-8, atol=0)
