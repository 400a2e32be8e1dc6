"""encoder.safetensors: the same features back, here and in plain timm; nothing but a whole, fitting file is taken."""
import json
import subprocess
import sys

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from vision import artifact, encoders
from vision.augment import Augmentation

KINDS = {  # name, channels, pixels, stem: of the small, half and full stem, with patches, and with several replacements
    "ours small": ("small", 1, 8, "auto"), "ours half": ("small", 1, 28, "auto"), "ours full": ("small", 3, 96, "auto"),
    "resnet small": ("resnet18", 3, 32, "small"), "stride alone": ("mobilenetv3_small_050", 1, 32, "small"),
    "patch stem": ("convnext_atto", 3, 32, "half"), "vit": ("vit_tiny_patch16_224", 3, 32, "auto"),
    "cbam": ("small", 1, 28, "auto", "cbam"), "cbam in blocks": ("convnext_atto", 3, 32, "small", "cbam"),
}


def augmentation(channels: int = 3, size: int = 32) -> Augmentation:
    return Augmentation(size, (0.123456789,) * channels, (0.25,) * channels)


def trained(
    name: str, channels: int, size: int, stem: str = "auto", attention: str = "none", seed: int = 0
) -> nn.Module:
    torch.manual_seed(seed)
    return moved(encoders.create(name, channels, size, stem, attention=attention))


def moved(encoder: nn.Module) -> nn.Module:
    """Every weight and statistic drawn anew, so that one left at its first value shows; in evaluation mode."""
    encoder.eval()
    for x in encoder.state_dict().values():
        if x.is_floating_point():
            x.copy_(x + 0.02 * torch.rand_like(x))
    return encoder


def save(model, path, **changes) -> None:
    spec = model.spec
    path.write_bytes(artifact.dumps(model, augmentation(spec.channels, spec.image_size), {"tool": "test"}))
    if changes:
        tensors, header = safetensors.torch.load_file(path), json.loads(metadata(path)["nolabel"])
        header |= changes
        safetensors.torch.save_file(tensors, path, {"nolabel": json.dumps(header)})


def metadata(path) -> dict:
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


@pytest.fixture(scope="module")
def resnet():
    return trained("resnet18", 3, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_gives_the_same_bytes(tmp_path, kind):
    encoder = trained(*KINDS[kind])
    save(encoder, tmp_path / "e.safetensors")
    torch.manual_seed(9)
    again, card = artifact.load(tmp_path / "e.safetensors")
    spec = encoder.spec
    assert (card.spec, card.dim, card.origin) == (spec, encoder.dim, {"tool": "test"})
    assert card.mean == (0.123457,) * spec.channels  # six digits
    x = torch.randn(2, spec.channels, spec.image_size, spec.image_size)
    assert not again.training
    assert again(x).detach().numpy().tobytes() == encoder(x).detach().numpy().tobytes()
    assert artifact.dumps(again, augmentation(spec.channels, spec.image_size), {"tool": "test"}) == (
        tmp_path / "e.safetensors").read_bytes()


def test_a_layer_that_stands_in_two_places_is_written_in_both(tmp_path):
    """As CoaT's position encodings: safetensors refuses tensors that share memory."""
    encoder = trained("test_resnet", 3, 32)
    modules = [name for name, m in encoder.named_modules() if isinstance(m, nn.BatchNorm2d)]
    first = encoder.get_submodule(modules[0])
    twin = next(name for name in modules[1:] if encoder.get_submodule(name).weight.shape == first.weight.shape)
    encoder.set_submodule(twin, first)
    save(encoder, tmp_path / "e.safetensors")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(artifact.load(tmp_path / "e.safetensors")[0](x), encoder(x))


def test_bytes_depend_on_content_alone(resnet):
    one = artifact.dumps(resnet, augmentation(), {"a": 1, "b": 2})
    assert artifact.dumps(resnet, augmentation(), {"b": 2, "a": 1}) == one
    laid_otherwise = trained("resnet18", 3, 32).to(memory_format=torch.channels_last)
    assert artifact.dumps(laid_otherwise, augmentation(), {"a": 1, "b": 2}) == one
    assert artifact.dumps(trained("resnet18", 3, 32, seed=1), augmentation(), {"a": 1, "b": 2}) != one


FEATURES = """
import sys, timm, torch, safetensors.torch
assert not any(name.split(".")[0] in ("vision", "core", "linear_eval") for name in sys.modules)
for i, lines in enumerate(sys.argv[1:]):
    exec(lines)
    x = torch.load(f"{i}.x.pt")
    torch.save(model(x).detach(), f"{i}.z.pt")
"""


@pytest.mark.long
def test_the_snippet_is_plain_timm(tmp_path):
    """One fresh process for all kinds, far from this code: the same bytes."""
    lines, expected = [], []
    for i, kind in enumerate(KINDS):
        encoder = trained(*KINDS[kind])
        save(encoder, tmp_path / f"{i} é.safetensors")
        text = artifact.snippet(artifact.read_header(tmp_path / f"{i} é.safetensors"), f"{i} é.safetensors")
        starts = [line.split("(")[0].split(" in ")[0] for line in text.splitlines()]
        small = encoder.spec.stem != "full" and not encoder.spec.arguments.get("patch_size")
        between = ["model.set_submodule"] * small + ["for name, channels"] * (encoder.spec.attention == "cbam")
        makes_input = ["from torchvision.transforms import v2; from PIL import ImageOps", "steps = v2.Compose"]
        makes_input += ["prepare = lambda image: steps"]
        assert starts == ["model = timm.create_model", *between, "model.load_state_dict", *makes_input], kind
        lines.append(text)
        x = torch.randn(2, encoder.spec.channels, encoder.spec.image_size, encoder.spec.image_size)
        torch.save(x, tmp_path / f"{i}.x.pt")
        expected.append(encoder(x).detach())
    subprocess.run([sys.executable, "-I", "-c", FEATURES, *lines], cwd=tmp_path, check=True,
                   env={"OMP_NUM_THREADS": str(torch.get_num_threads())})
    for i, (kind, z) in enumerate(zip(KINDS, expected, strict=True)):
        assert torch.equal(torch.load(tmp_path / f"{i}.z.pt"), z), kind


@pytest.mark.parametrize("spec", [
    encoders.Spec("lenet5", 1, 28, "small"), encoders.Spec("alexnet", 3, 32, "small"),
    encoders.Spec("vgg11", 1, 28, "small", {"mlp_ratio": 1 / 64}),  # without most of its weights; at its full stem it fails
    encoders.Spec("vgg11", 3, 28, "small", {"mlp_ratio": 1 / 64}, "cbam"), encoders.Spec("lenet5", 3, 32, "small", {}, "cbam"),
], ids=lambda spec: f"{spec.name} {spec.attention}")
def test_the_snippet_loads_the_classics(tmp_path, spec):
    encoder = moved(encoders.build(spec))
    save(encoder, tmp_path / "e.safetensors")
    text = artifact.snippet(artifact.read_header(tmp_path / "e.safetensors"), str(tmp_path / "e.safetensors"))
    assert text.startswith("from vision import classic\n" if spec.name in ("lenet5", "alexnet") else "model = timm")
    names = {"timm": timm, "torch": torch, "safetensors": safetensors}
    exec(text, names)
    x = torch.randn(2, spec.channels, spec.image_size, spec.image_size)
    assert torch.equal(names["model"](x), encoder(x))


CLASSES = ("T-shirt/top", "Hosen", "プルオーバー")


@pytest.mark.parametrize("bias", [True, False])
def test_a_classifier_comes_back_whole_and_as_an_encoder(tmp_path, resnet, bias):
    path, head = tmp_path / "c.safetensors", nn.Linear(resnet.dim, 3, bias)
    path.write_bytes(artifact.dumps(resnet, augmentation(), {"tool": "test"}, head, CLASSES))
    x = torch.randn(2, 3, 32, 32)
    model, card = artifact.load_classifier(path)
    assert not any(m.training for m in model.modules())
    assert torch.equal(model(x), head(resnet(x)))
    assert (card.classes, card.spec, card.origin) == (CLASSES, resnet.spec, {"tool": "test"})
    assert artifact.dumps(model.encoder, augmentation(), {"tool": "test"}, model.head, card.classes) == path.read_bytes()

    encoder, card = artifact.load(path)
    assert card == artifact.read_header(path)
    assert torch.equal(encoder(x), resnet(x))
    assert list(encoder.state_dict()) == list(resnet.state_dict())
    names = {"timm": timm, "torch": torch, "safetensors": safetensors}
    exec(artifact.snippet(card, str(path)), names)
    assert torch.equal(names["model"](x), resnet(x))


def test_no_model_has_weights_of_the_classifiers_name():
    """A dot at the beginning would be a module without a name, or a dot in a name: torch refuses both."""
    assert artifact.HEAD[0] == "."
    for name in ("", ".classifier", ".classifier.weight"):
        for register, what in ((nn.Module().register_parameter, nn.Parameter(torch.zeros(1))),
                               (nn.Module().register_buffer, torch.zeros(1)), (nn.Module().add_module, nn.Module())):
            with pytest.raises(KeyError):
                register(name, what)


def test_an_encoder_alone_is_no_classifier(tmp_path, resnet):
    save(resnet, tmp_path / "e.safetensors")
    assert artifact.read_header(tmp_path / "e.safetensors").classes is None
    with pytest.raises(ValueError, match=r"e\.safetensors holds an encoder without a classifier; fine-tune it") as caught:
        artifact.load_classifier(tmp_path / "e.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["no head", "bias misnamed", "another shape", "one class more", "a head untold"])
def test_classifiers_are_loaded_as_strictly(tmp_path, resnet, change):
    path = tmp_path / "c.safetensors"
    path.write_bytes(artifact.dumps(resnet, augmentation(), {}, nn.Linear(resnet.dim, 3), CLASSES))
    tensors, header = safetensors.torch.load_file(path), json.loads(metadata(path)["nolabel"])
    load = artifact.load_classifier
    match change:
        case "no head":
            del tensors[".classifier.weight"], tensors[".classifier.bias"]
        case "bias misnamed":
            tensors[".classifier.bias_"] = tensors.pop(".classifier.bias")
        case "another shape":
            tensors[".classifier.weight"] = torch.zeros(3, 5)
        case "one class more":
            header["classes"] = ["more", *CLASSES]
        case "a head untold":
            del header["classes"]
            load = artifact.load  # it would be left out unnoticed
    safetensors.torch.save_file(tensors, path, {"nolabel": json.dumps(header)})
    with pytest.raises(ValueError, match="its weights do not fit resnet18") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_the_bytes_of_format_1_are_written_out_here():
    """No word of attention or of classes where there are none."""
    encoder = trained("lenet5", 1, 28)
    header = (
        '{"dim": 84, "encoder": {"arguments": {}, "channels": 1, "image_size": 28, "name": "lenet5", "stem": "small"}, '
        '"format": 1, "mean": [0.123457], "origin": {"tool": "test"}, "preprocessing": {"antialias": true, "channels": 1, '
        '"crop": "center", "interpolation": "bilinear", "mean": [0.123457], "range": [0, 1], "resize": "shortest side", '
        '"size": 28, "std": [0.25]}, "std": [0.25]}'
    )
    expected = safetensors.torch.save(dict(encoder.state_dict()), {"nolabel": header})
    assert artifact.dumps(encoder, augmentation(1, 28), {"tool": "test"}) == expected


def test_what_is_no_encoder_file_is_refused_in_one_line(tmp_path, resnet):
    path = tmp_path / "e.safetensors"
    save(resnet, path)
    whole = path.read_bytes()
    spec = resnet.spec.json
    foreign = safetensors.torch.save({"x": torch.zeros(2)})
    cases = {
        "empty": b"", "text": b"not a checkpoint\n" * 9, "cut in the header": whole[:500], "cut": whole[:-1000],
        "longer": whole + b"x", "foreign": foreign, "foreign header": safetensors.torch.save(
            {"x": torch.zeros(2)}, {"nolabel": "[1]"}), "pickle": b"\x80\x02}q\x00.",
    }
    for name, content in cases.items():
        path.write_bytes(content)
        for read in (artifact.read_header, artifact.load):
            with pytest.raises(ValueError, match=r"is not an encoder\.safetensors of nolabel") as caught:
                read(path)
            assert "\n" not in str(caught.value), name
            assert str(path) in str(caught.value)
    for changes, message in (({"format": 2}, "format 2, this version reads 1"), ({"encoder": [1]}, "is not an encoder"),
                           ({"encoder": spec | {"arguments": [1]}}, "is not an encoder"),
                           ({"encoder": spec | {"nonsense": 1}}, "nonsense"),
                           ({"encoder": spec | {"name": "resnet1"}}, "encoder=resnet1"),
                           ({"encoder": spec | {"attention": "more"}}, "attention=more: there are none, cbam"),
                           ({"encoder": spec | {"arguments": {"what": 1}}}, "encoder=resnet18: timm cannot build it")):
        save(resnet, path, **changes)
        with pytest.raises(ValueError, match=message) as caught:
            artifact.load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"encoder=.*nowhere: no such file"):
        artifact.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no such file"):
        artifact.load(tmp_path)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "renamed"])
def test_loading_is_strict(tmp_path, resnet, change):
    path = tmp_path / "e.safetensors"
    save(resnet, path)
    tensors, header = safetensors.torch.load_file(path), metadata(path)
    match change:
        case "missing":
            del tensors["layer1.0.conv1.weight"]
        case "extra":
            tensors["more"] = torch.zeros(1)
        case "shape":
            tensors["layer1.0.bn1.bias"] = torch.zeros(3)
        case "renamed":
            tensors["module.conv1.weight"] = tensors.pop("conv1.weight")
    safetensors.torch.save_file(tensors, path, header)
    with pytest.raises(ValueError, match="its weights do not fit resnet18") as caught:
        artifact.load(path)
    assert "\n" not in str(caught.value)
