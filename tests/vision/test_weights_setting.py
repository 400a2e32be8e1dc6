"""The settings weights and normalization, in every tool that names an encoder."""
import json
from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch
from commands import run

from core import cli, training
from core.identity import identity
from deploy.settings import check_file
from distill import teacher as teachers
from distill.train import TOOL as DISTILL
from distill.train import check as check_distill
from linear_eval.finetune import TOOL
from linear_eval.inputs import is_trained
from vision import artifact
from vision.build import build_encoder, notes
from vision.data import build_data

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    """timm's own small test model, as its author might save it."""
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("weights") / "moco.pth.tar"
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    torch.save({"state_dict": {f"module.encoder_q.{name}": value for name, value in state.items()}}, path)
    return str(path)


def weights_of(path: str) -> dict:
    return {name.removeprefix("module.encoder_q."): value for name, value in torch.load(path)["state_dict"].items()}


def built(*overrides: str, bands: int | None = None):
    settings = cli.compose(TOOL, ["data=digits", "encoder=test_resnet", *overrides])
    training.check(settings)
    dataset = build_data(settings)
    if bands:
        dataset = replace(dataset, channels=bands, mean=tuple(0.1 * (i + 1) for i in range(bands)), std=(0.2,) * bands)
    encoder, augmentation = build_encoder(settings, dataset)
    return encoder, augmentation, notes(encoder, settings, augmentation)


def figures(augmentation) -> tuple[list[float], list[float]]:
    return augmentation.mean.tolist(), augmentation.std.tolist()


def test_a_file_brings_its_weights_color_and_the_size_that_timm_states(file):
    encoder, augmentation, said = built(f"weights={file}")
    assert all(torch.equal(value, weights_of(file)[name]) for name, value in encoder.state_dict().items())
    assert (encoder.spec.channels, augmentation.size, encoder.spec.stem) == (3, 160, "full")
    assert figures(augmentation) == (pytest.approx(IMAGENET[0]), pytest.approx(IMAGENET[1]))
    count = len(encoder.state_dict())
    assert said[0] == (
        f"weights: {count} tensors of moco.pth.tar (state_dict, module.encoder_q.) loaded by name; missing: none; "
        "unused: 2 (module.encoder_q.fc.weight, module.encoder_q.fc.bias)"
    )
    assert said[1].startswith("normalization=auto: mean 0.485,0.456,0.406, std 0.229,0.224,0.225; the file does not say")
    assert built(f"weights={file}", "image_size=32")[1].size == 32
    assert encoder.training


def test_scratch_keeps_all_but_the_weights(file):
    encoder, augmentation, said = built(f"weights={file}", "scratch=true")
    assert encoder.spec == built(f"weights={file}")[0].spec
    assert not torch.equal(encoder.conv1[0].weight, weights_of(file)["conv1.0.weight"])
    assert augmentation.mean.tolist() == pytest.approx(IMAGENET[0])
    assert said == []


def test_cbam_behind_published_weights_is_named(file):
    encoder, _, said = built(f"weights={file}", "attention=cbam", "image_size=32")
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in weights_of(file).items() if name[:2] != "fc")
    assert "attention=cbam: its modules begin with random weights" in said


@pytest.mark.parametrize(("text", "mean", "std"), [
    ("data", [0.3, 0.3, 0.3], None), ("imagenet", *IMAGENET), ("0.1,0.2,0.3;0.5", [0.1, 0.2, 0.3], [0.5] * 3),
    ("0.498;0.502", [0.498] * 3, [0.502] * 3),
])
def test_the_input_is_normalized_as_is_said(file, text, mean, std):
    _, augmentation, said = built(f"weights={file}", f"normalization='{text}'", "image_size=32")
    if text == "data":
        dataset = build_data(cli.compose(TOOL, ["data=digits"]))
        mean, std = [dataset.mean[0]] * 3, [dataset.std[0]] * 3
    assert figures(augmentation) == (pytest.approx(mean), pytest.approx(std))
    assert f"normalization={text}: " in said[-1]


def test_timms_figures_for_a_name_and_for_a_tag(tmp_path):
    config = timm.get_pretrained_cfg("vit_tiny_patch16_224")
    state = timm.create_model("vit_tiny_patch16_224", img_size=32).state_dict()
    torch.save(state, tmp_path / "w.pth")
    words = (f"weights={tmp_path / 'w.pth'}", "image_size=32")
    assert built("encoder=vit_tiny_patch16_224", "normalization=weights", *words)[1].mean.tolist() == list(config.mean)
    assert built("encoder=vit_tiny_patch16_224", *words)[1].mean.tolist() == pytest.approx(IMAGENET[0])
    assert built("encoder=vit_tiny_patch16_224.augreg_in21k_ft_in1k", *words)[1].mean.tolist() == list(config.mean)


def test_random_weights_take_the_data_or_what_is_said():
    dataset = build_data(cli.compose(TOOL, ["data=digits"]))
    assert figures(built("image_size=16")[1]) == (pytest.approx(dataset.mean), pytest.approx(dataset.std))
    assert figures(built("image_size=16", "normalization='0.5;0.25'")[1]) == ([0.5], [0.25])
    assert built("image_size=16", "normalization=imagenet")[1].mean.tolist() == pytest.approx([sum(IMAGENET[0]) / 3])
    with pytest.raises(ValueError, match="normalization=weights: there are no such figures here"):
        built("encoder=small", "normalization=weights")


def test_bands_get_an_adapted_stem_and_their_own_figures(file):
    encoder, augmentation, said = built(f"weights={file}", "image_size=32", bands=5)
    own = weights_of(file)["conv1.0.weight"]
    torch.testing.assert_close(encoder.conv1[0].weight, own[:, [0, 1, 2, 0, 1]] * 3 / 5)
    assert figures(augmentation) == (pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5]), pytest.approx([0.2] * 5))
    assert any("channel i mod 3 of the published 3, times 3/5" in note for note in said)
    cycled = built(f"weights={file}", "image_size=32", "normalization=imagenet", bands=5)[1]
    assert cycled.mean.tolist() == pytest.approx([*IMAGENET[0], *IMAGENET[0][:2]])
    with pytest.raises(ValueError, match="the encoder takes 5 channels; give as many figures"):
        built(f"weights={file}", "image_size=32", "normalization='0.1,0.2,0.3;0.5'", bands=5)


def test_bands_with_timms_own_weights(tmp_path):
    torch.manual_seed(4)
    model = timm.create_model("test_resnet", num_classes=7)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"num_classes": 7, "classifier": "fc", "input_size": [3, 40, 40], "mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7],
              "first_conv": "conv1.0"}
    content = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": config}
    (tmp_path / "config.json").write_text(json.dumps(content))
    encoder, augmentation, said = built(f"encoder=local-dir:{tmp_path}", "pretrained=true", bands=4)
    torch.testing.assert_close(encoder.conv1[0].weight, model.conv1[0].weight[:, [0, 1, 2, 0]] * 3 / 4)
    assert torch.equal(encoder.conv1[3].weight, model.conv1[3].weight)
    assert (encoder.spec.channels, augmentation.mean.tolist()) == (4, pytest.approx([0.1, 0.2, 0.3, 0.4]))
    assert "times 3/4" in said[1]
    replaced = built(f"encoder=local-dir:{tmp_path}", "pretrained=true", "stem=small")[2]
    assert "stem=small: in place of the published weights' first convolution stands one of random weights" in replaced[0]
    assert built(f"encoder=local-dir:{tmp_path}", "pretrained=true")[2] == []


def test_the_header_keeps_what_was_loaded_and_only_then(file):
    encoder, augmentation, _ = built(f"weights={file}", "image_size=32")
    header = json.loads(_metadata(artifact.dumps(encoder, augmentation, {"tool": "x"})))
    origin = header["origin"]
    assert origin["tool"] == "x"
    assert origin["weights"] == encoder.loaded.json
    assert origin["weights"]["unused"] == ["module.encoder_q.fc.weight", "module.encoder_q.fc.bias"]
    plain = json.loads(_metadata(artifact.dumps(built("image_size=16")[0], augmentation, {"tool": "x"})))
    assert plain["origin"] == {"tool": "x"}


def _metadata(content: bytes) -> str:
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size])["__metadata__"]["nolabel"]


def test_the_file_is_known_by_its_content(file, tmp_path):
    def of(*overrides):
        return identity(cli.compose(TOOL, ["data=digits", *overrides]))

    other = tmp_path / "another name.bin"
    other.write_bytes(open(file, "rb").read())  # noqa: SIM115
    assert of(f"weights='{other}'") == of(f"weights={file}")
    assert of(f"weights={file}")["weights"].startswith("content ")
    assert not {"weights", "normalization"} & of().keys()
    other.write_bytes(b"others")
    assert of(f"weights='{other}'") != of(f"weights={file}")
    assert is_trained(cli.compose(TOOL, ["data=digits", f"weights={file}"]))


@pytest.mark.parametrize(("words", "message"), [
    (["encoder=x.safetensors"], "encoder=x.safetensors brings its own weights; leave one of the two out"),
    (["encoder=hf-hub:timm/x"], "encoder=hf-hub:timm/x brings its own weights"),
    (["pretrained=true"], "pretrained=true brings timm's weights"),
    (["normalization=1"], "normalization=1: must be auto, data, weights, imagenet or mean;std"),
    (["normalization='127;128'"], "is for pixels in 0..1; divide figures for 0..255 by 255"),
    (["normalization='0.5;0'"], "is for pixels in 0..1"),
])
def test_settings_that_contradict_each_other(file, words, message):
    with pytest.raises(ValueError, match=message):
        built(f"weights={file}", *words)


@pytest.mark.parametrize(("name", "message"), [
    ("gone.pth", "no such file; give a weight file"), ("x.onnx", "is no weight file by its name"),
    ("last.pt", "is a run's saved state, not an encoder"), (".", "is no weight file by its name"),
])
def test_paths_that_cannot_be_weights(name, message, tmp_path):
    if name in ("x.onnx", "last.pt"):
        (tmp_path / name).touch()
        (tmp_path / "config.yaml").touch()  # of a run of ours
    with pytest.raises(ValueError, match=message):
        training.check(cli.compose(TOOL, ["data=digits", f"weights={tmp_path / name}"]))


def test_encoder_points_to_weights(file):
    with pytest.raises(ValueError, match="give encoder=NAME of its timm architecture and weights=THE FILE"):
        cli.compose(TOOL, ["data=digits", f"encoder={file}"])


def test_a_teacher_of_another_program(file):
    settings = cli.compose(DISTILL, ["data=digits", "teacher=test_resnet", f"teacher_weights={file}", "student=small"])
    check_distill(settings)
    teacher = teachers.load("test_resnet", [0.5], [0.25], source=teachers.foreign(settings))
    (member,) = teacher.members
    assert torch.equal(member.encoder.conv1[0].weight, weights_of(file)["conv1.0.weight"])
    assert member.mean.tolist() == pytest.approx(IMAGENET[0])
    assert teacher.notes[0].startswith("teacher: weights: ")
    said = cli.compose(DISTILL, ["teacher=test_resnet", f"teacher_weights={file}", "teacher_normalization='0.1;0.2'"])
    member = teachers.load("test_resnet", [0.5], [0.25], source=teachers.foreign(said)).members[0]
    assert (member.mean.tolist(), member.std.tolist()) == (pytest.approx([0.1] * 3), pytest.approx([0.2] * 3))
    for words, message in (
        (["teacher='a,b'", f"teacher_weights={file}"], "needs one timm name as teacher="),
        (["teacher=resnet18", "teacher_normalization=imagenet"], "is for teacher_weights; leave it out"),
        (["teacher=resnet18", f"weights={file}", "student='resnet18,resnet34'"], "is one file for 2 students"),
    ):
        with pytest.raises(ValueError, match=message):
            check_distill(cli.compose(DISTILL, ["data=digits", "student=small", *words]))
    with pytest.raises(ValueError, match=r"teacher_weights=.*: does not fit resnet18"):
        teachers.load("resnet18", [0.5], [0.25], source=teachers.foreign(settings))


def test_an_export_keeps_the_files_own(tmp_path):
    settings = replace(cli.compose(TOOL, ["data=digits", "normalization=data"]), encoder="x.safetensors")
    with pytest.raises(ValueError, match="normalization=data: the file has its own"):
        check_file(settings)


SMALL = ["--data=synthetic", "--image_size=16", "--encoder=test_resnet"]
TRAINS = [*SMALL, "--batch_size=16", "--steps=2", "--evals=1"]


@pytest.mark.parametrize(("tool", "words"), [
    ("ssl.pretrain", [*TRAINS, "--method.hidden=16", "--method.dim=8", "--report=false"]),
    ("linear_eval.finetune", [*TRAINS, "--gradcam=0"]),
    ("linear_eval.evaluate", [*SMALL, "--parts=[knn]", "--picture=false", "--cache=none"]),
    pytest.param("distill.train", [*TRAINS, "--teacher=test_resnet", "--cache=none"], marks=pytest.mark.long),
])
def test_in_every_tool_from_its_command_line(tool, words, file, tmp_path):
    more = [f"--teacher_weights={file}"] if tool == "distill.train" else []
    ended = run(*words, *more, f"--weights={file}", f"--out={tmp_path / 'run'}", logs=tmp_path, module=tool)
    assert ended.code == 0, ended.err
    said = ended.out + ended.err
    assert "loaded by name; missing: none; unused: 2 (module.encoder_q.fc.weight" in said
    if tool != "linear_eval.evaluate":
        assert artifact.read_header(tmp_path / "run" / "encoder.safetensors").origin["weights"]["file"] == "moco.pth.tar"
    if tool == "distill.train":
        assert "note: teacher: weights: " in said
