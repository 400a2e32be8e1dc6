"""CBAM is the paper's, stands behind each stage, and renames nothing."""
import numpy as np
import pytest
import torch
from timm.layers.cbam import CbamModule
from torch import nn

from vision import attention, encoders
from vision.encoders import Spec

STAGES = {  # what a stage of each is called, and its channels
    "small": {"layer1": 32, "layer2": 64, "layer3": 128, "layer4": 256},
    "resnet18": {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512},
    "mobilenetv3_small_050": {"blocks.0": 8, "blocks.1": 16, "blocks.3": 24, "blocks.5": 288},
    "efficientnet_b0": {"blocks.0": 16, "blocks.1": 24, "blocks.2": 40, "blocks.4": 112, "blocks.6": 320},
    "convnext_atto": {"stages.0": 40, "stages.1": 80, "stages.2": 160, "stages.3": 320},
    "vgg11": {"features.1": 64, "features.4": 128, "features.9": 256, "features.14": 512, "features.19": 512},
    "lenet5": {"features.squash1": 6, "features.squash3": 16, "features.squash5": 120},
}


def create(name: str, kind: str = "cbam") -> nn.Module:
    torch.manual_seed(0)
    if name == "vgg11":  # without its hundred million weights behind the maps
        return encoders.build(Spec(name, 3, 32, "small", {"mlp_ratio": 1 / 64}, kind))
    return encoders.create(name, 3, 32, attention=kind)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cbam_by_hand(x: np.ndarray, w: dict[str, np.ndarray], eps: float) -> np.ndarray:
    """arXiv 1807.06521, equations 1–3, for one image C,H,W, as loops.

    M_c(F) = σ(W1 ReLU(W0 F_avg) + W1 ReLU(W0 F_max));  M_s(F) = σ(f7×7([F_avg; F_max]));  F″ = M_s(F′) F′, F′ = M_c(F) F
    """
    channels, height, width = x.shape
    w0, w1 = w["channel.fc1.weight"][:, :, 0, 0], w["channel.fc2.weight"][:, :, 0, 0]
    mean = np.array([sum(x[c].flat) / (height * width) for c in range(channels)])
    most = np.array([max(x[c].flat) for c in range(channels)])
    gate = sigmoid(w1 @ np.maximum(w0 @ mean, 0) + w1 @ np.maximum(w0 @ most, 0))
    x = np.stack([gate[c] * x[c] for c in range(channels)])
    pooled = np.zeros((2, height + 6, width + 6))  # padded by 3
    for i in range(height):
        for j in range(width):
            pooled[:, i + 3, j + 3] = sum(x[:, i, j]) / channels, max(x[:, i, j])
    out = np.zeros_like(x)
    for i in range(height):
        for j in range(width):
            f = (w["spatial.conv.conv.weight"][0] * pooled[:, i : i + 7, j : j + 7]).sum()
            f = (f - w["spatial.conv.bn.running_mean"][0]) / np.sqrt(w["spatial.conv.bn.running_var"][0] + eps)
            f = f * w["spatial.conv.bn.weight"][0] + w["spatial.conv.bn.bias"][0]  # BatchNorm, as in the authors' code
            out[:, i, j] = sigmoid(f) * x[:, i, j]
    return out


def test_cbam_is_the_papers():
    torch.manual_seed(0)
    cbam = CbamModule(32).double().eval()
    for value in cbam.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.1 * torch.randn_like(value))
    weights = {name: value.numpy() for name, value in cbam.state_dict().items()}
    assert weights["channel.fc1.weight"].shape == (2, 32, 1, 1)  # r = 16 (§3.1), no biases in the shared MLP
    assert weights["spatial.conv.conv.weight"].shape == (1, 2, 7, 7)
    for x in torch.randn(2, 32, 5, 9, dtype=torch.float64) / 4:
        found = cbam(x[None])[0].detach().numpy()
        np.testing.assert_allclose(found, cbam_by_hand(x.numpy(), weights, cbam.spatial.conv.bn.eps), rtol=1e-12)


@pytest.mark.parametrize("name", STAGES)
def test_one_follows_each_stage_and_learns(name):
    encoder = create(name)
    assert encoder.training
    assert all(m.num_batches_tracked == 0 for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    blocks = {where: m for where, m in encoder.named_modules() if isinstance(m, CbamModule)}
    assert [m.channel.fc1.in_channels for m in blocks.values()] == list(STAGES[name].values())
    assert [where.startswith(stage + ".") for where, stage in zip(blocks, STAGES[name], strict=True)]
    plain = create(name, "none").eval()
    plain.load_state_dict({k: v for k, v in encoder.state_dict().items() if k in plain.state_dict()})
    seen = []
    for m in blocks.values():
        m.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0].clone(), out.clone())))
    maps = []
    plain.get_submodule(next(iter(STAGES[name]))).register_forward_hook(lambda _, inputs, out: maps.append(out.clone()))
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        encoder.eval()(x)
        plain(x)
    assert len(seen) == len(blocks)  # each of them once
    assert torch.equal(seen[0][0], maps[0])  # the first stage's whole output goes in
    encoder.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for m in blocks.values() for p in m.parameters())


@pytest.mark.parametrize("name", STAGES)
def test_the_encoders_own_weights_keep_their_names(name):
    plain, encoder = create(name, "none"), create(name)
    names = list(encoder.state_dict())
    inside = [f"{where}." for where, m in encoder.named_modules() if isinstance(m, CbamModule)]
    assert [n for n in names if not n.startswith(tuple(inside))] == list(plain.state_dict())
    missing, unexpected = encoder.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert {where for where in inside if any(n.startswith(where) for n in missing)} == set(inside)
    assert all(n.startswith(tuple(inside)) for n in missing)


def test_none_is_the_default_and_changes_nothing():
    torch.manual_seed(0)
    plain = encoders.create("small", 3, 32)
    for (name, a), (_, b) in zip(plain.state_dict().items(), create("small", "none").state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert plain.spec.attention == "none"
    assert "attention" not in plain.spec.json
    assert Spec(**create("small").spec.json) == create("small").spec


@pytest.mark.parametrize(("name", "kind", "message"), [
    ("vit_tiny_patch16_224", "cbam", "attention=cbam does not fit encoder=vit_tiny_patch16_224, .* use attention=none"),
    ("swin_tiny_patch4_window7_224", "cbam", "attention=cbam does not fit encoder=swin_tiny_patch4_window7_224"),  # B,H,W,C
    ("levit_128s", "cbam", "attention=cbam does not fit encoder=levit_128s"),  # B,N,C
    ("densenet121", "cbam", "attention=cbam does not fit encoder=densenet121"),
    ("resnet18", "cbma", "attention=cbma: there are none, cbam"),
])
def test_what_does_not_fit_is_told_in_one_line(name, kind, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message) as caught:
        encoders.create(name, 3, 32, attention=kind)
    assert "\n" not in str(caught.value)


def test_the_lines_of_python_do_what_attach_does():
    for name in ("small", "vgg11"):
        model = create(name, "none")
        text = attention.lines(model)
        assert len(text) == 1
        import timm  # noqa: F401, the text's

        exec(text[0])
        assert list(model.state_dict()) == list(create(name).state_dict())
