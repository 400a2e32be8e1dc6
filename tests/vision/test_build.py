"""Words → data and encoder: what a file, published weights, attention and a fresh start mean."""
import json

import pytest
import safetensors.torch
import timm
import torch

from core import cli
from linear_eval.finetune import TOOL
from vision import artifact, encoders
from vision.augment import Augmentation
from vision.build import build_encoder, compile_encoder, precision
from vision.data import build_data


def settings_of(*overrides: str):
    return cli.compose(TOOL, ["data=digits", *overrides])


def built(*overrides: str, seed: int = 0):
    settings = settings_of(*overrides)
    torch.manual_seed(seed)
    return build_encoder(settings, build_data(settings))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    torch.manual_seed(9)
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    augmentation = Augmentation(24, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    path.write_bytes(artifact.dumps(encoders.create("test_resnet", 3, 24), augmentation, {}))
    return str(path)


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    return all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_file_brings_its_weights_size_channels_and_normalization(saved):
    encoder, augmentation = built(f"encoder={saved}")
    assert same(encoder, artifact.load(saved)[0])
    assert (encoder.spec.channels, augmentation.size) == (3, 24)
    assert augmentation.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert encoder.training


def test_scratch_keeps_all_but_the_weights(saved):
    encoder, augmentation = built(f"encoder={saved}", "scratch=true")
    assert encoder.spec == artifact.load(saved)[0].spec
    assert not same(encoder, artifact.load(saved)[0])
    assert augmentation.std.tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert same(encoder, built(f"encoder={saved}", "scratch=true")[0])
    assert not same(encoder, built(f"encoder={saved}", "scratch=true", seed=1)[0])


def test_attention_is_given_to_names_and_refused_to_files(saved):
    encoder, _ = built("encoder=test_resnet", "attention=cbam", "image_size=16")
    plain, _ = built("encoder=test_resnet", "image_size=16")
    assert set(plain.state_dict()) < set(encoder.state_dict())
    with pytest.raises(ValueError, match="attention=cbam"):
        built(f"encoder={saved}", "attention=cbam")


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> str:
    """A folder such as timm publishes: weights, and the input that they were trained with."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(4)
    model = timm.create_model("test_resnet", num_classes=7)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    input_ = {"input_size": [3, 40, 40], "mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7], "first_conv": "conv1.0"}
    config_ = {"num_classes": 7, "classifier": "fc", **input_}
    content = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": config_}
    (folder / "config.json").write_text(json.dumps(content))
    return f"local-dir:{folder}"


def test_published_weights_bring_the_input_that_they_were_trained_with(published):
    """Digits are grey and 8 pixels; the weights know color at 40, and another size only where it is asked for."""
    encoder, augmentation = built(f"encoder={published}", "pretrained=true")
    assert (encoder.spec.channels, augmentation.size) == (3, 40)
    assert augmentation.mean.tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert augmentation.std.tolist() == pytest.approx([0.5, 0.6, 0.7])
    weights = safetensors.torch.load_file(published.removeprefix("local-dir:") + "/model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in encoder.state_dict().items())
    assert built(f"encoder={published}", "pretrained=true", "image_size=16")[1].size == 16


def test_precision_is_what_is_said():
    encoder = encoders.create("test_resnet", 1, 16)
    assert precision("fp32", encoder, torch.device("cpu")) is None
    assert precision("bf16", encoder, torch.device("cpu")) is torch.bfloat16


def test_a_cpu_computes_in_fp32_where_its_bf16_leaves_gradients_unset(monkeypatch):
    """3×3 on a map of one pixel has weights that no pixel reaches; of two pixels it has none."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    encoder = encoders.create("small", 1, 28)  # maps of 14, 7, 4 and 2 pixels
    assert precision("auto", encoder, torch.device("cpu")) is torch.bfloat16
    assert precision("auto", encoder, torch.device("cpu"), [28, 8]) is None  # local crops end at one pixel
    cases = ((1, 3, 1, True), (1, 1, 1, False), (2, 3, 1, False), (2, 3, 2, True), (4, 3, 2, False), (2, 5, 1, True),
             (3, 5, 1, False))
    for side, kernel, stride, unreached in cases:
        layer = torch.nn.Sequential(torch.nn.Conv2d(1, 1, kernel, stride, kernel // 2))
        layer(torch.ones(1, 1, side, side)).sum().backward()
        assert (layer[0].weight.grad == 0).any() == unreached
        assert encoders.has_unreached_weights(layer, [side]) == unreached


# --------------------------------------------------------------------------------------------------- several sizes, compiling


def long(*names: str) -> list:
    return [pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", *long("xcit_nano_12_p16_224", "swin_tiny_patch4_window7_224")])
def test_local_crops_of_encoders_that_take_several_sizes(name):
    encoder = encoders.create(name, 3, 64, several_sizes=True)
    assert any(encoders.unfit_reason(encoder, size) is None for size in (16, 28, 32, 48))
    assert encoders.build(encoder.spec).state_dict().keys() == encoder.state_dict().keys()


@pytest.mark.parametrize("name", ["levit_128s", *long("hiera_tiny_224", "mixer_s32_224")])
def test_local_crops_are_refused_in_one_line_with_the_way_out(name):
    with pytest.raises(ValueError, match=f"encoder={name} takes images of 64 px alone.*views=0, or use an encoder") as caught:
        encoders.create(name, 3, 64, several_sizes=True)
    assert "\n" not in str(caught.value)


def test_a_file_without_dynamic_sizes_loads_for_local_crops(tmp_path):
    """Its model does not know the argument that vision transformers have."""
    torch.manual_seed(0)
    encoder = encoders.create("xcit_nano_12_p16_224", 3, 64).eval()
    path = tmp_path / "e.safetensors"
    path.write_bytes(artifact.dumps(encoder, Augmentation(64, (0.5,) * 3, (0.25,) * 3), {}))
    again, card = artifact.load(path, several_sizes=True)
    assert card.spec == again.spec == encoder.spec
    assert same(again, encoder)


def test_local_crops_of_a_size_that_an_encoder_does_not_take_are_refused_before_training(monkeypatch):
    local = "augment.local={views: 2, size: 0.5}"
    assert built("encoder=test_resnet", "image_size=16", local)[1].local_size == 8
    monkeypatch.setattr(encoders, "unfit_reason", lambda encoder, size: "height (8) must be divisible by window (7)")
    with pytest.raises(ValueError, match=r"augment\.local\.size: encoder=test_resnet does not take local crops of 8") as caught:
        built("encoder=test_resnet", "image_size=16", local)
    assert "augment.local.views=0" in str(caught.value)


@pytest.mark.parametrize("error", [IndexError("list index out of range"), ZeroDivisionError("division by zero"), KeyError("x")])
def test_whatever_a_model_raises_is_one_line(monkeypatch, error):
    class Broken(torch.nn.Module):
        def forward(self, x):
            raise error

    monkeypatch.setattr(timm, "create_model", lambda *_, **__: Broken())
    with pytest.raises(encoders.Unfit, match="encoder=resnet18 does not take 32 px images") as caught:
        encoders.build(encoders.Spec("resnet18", 3, 32))
    assert "\n" not in str(caught.value)


def test_where_torch_cannot_compile_it_is_refused_in_one_line(monkeypatch):
    def compile(function):
        def fails(x):
            raise RuntimeError("No working C++ compiler found:\n(None, 'g++')")

        return fails

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(ValueError, match=r"compile=true: .*No working C\+\+ compiler.*g\+\+, or leave compile out") as caught:
        compile_encoder(torch.nn.Linear(2, 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("share", "side"), [(0.5, 24), (0.7, 36)])
def test_views_may_be_smaller_than_what_the_encoder_is_for(share, side):
    """34 px would be .7 of 48: a transformer's are a multiple of its patch, 6 px here."""
    model, recipe = built("encoder=vit_tiny_patch16_224", "image_size=48", f"augment.view_size={share}")
    assert model.spec.image_size == 48
    assert (recipe.size, {view.size for view in recipe.views}) == (side, {side})
    draw = recipe.sample_params(0, 0, torch.arange(2), 48, 48)
    view, *_ = recipe.render(torch.zeros(2, len(recipe.mean), 48, 48, dtype=torch.uint8), draw)
    assert view.shape[-2:] == (side, side)
    assert model(view).shape == (2, model.dim)


def test_a_share_of_view_size_is_more_than_0_and_at_most_1():
    for share in ("0", "1.5", "true"):
        with pytest.raises(ValueError, match=r"augment\.view_size="):
            built("encoder=test_resnet", "image_size=16", f"augment.view_size={share}")
