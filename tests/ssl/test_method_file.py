"""method.safetensors and `--from`: what a run left is what another begins with, or a line says why not."""
import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import run
from safetensors import safe_open
from safetensors.torch import load_file
from small_methods import NAMES, made, words_of
from timm.layers import resample_abs_pos_embed
from torch import nn

from core import cli, training
from core.identity import digest_of, identity
from ssl import adapt, continued, method_file
from ssl.pretrain import TOOL, check
from vision import artifact, encoders, lora
from vision.resized import load_at

SHAPE = ["--data=digits", "--image_size=16", "--encoder=test_resnet", "--batch_size=64", "--trackers=none", "--report=false"]
MOCO = ["--method=moco_v2", "--method.hidden=32", "--method.dim=16", "--method.bn_splits=4", "--method.queue_size=192"]


def left_by(method, name: str, folder: Path, *more: str) -> Path:
    """The folder of a run that ended with this method."""
    folder.mkdir()
    spec = method.encoder.spec
    header = artifact.EncoderHeader(spec, (0.5,) * spec.channels, (0.5,) * spec.channels, method.encoder.dim, {})
    (folder / "encoder.safetensors").write_bytes(artifact.dumps(lora.merged(method.encoder), header, {}))
    (folder / "method.safetensors").write_bytes(safetensors.torch.save(*method_file.contents(method, words_of(name, *more), 7)))
    return folder


def stirred(method):
    """Other weights and memories, as training leaves them."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in method.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand(value.shape, generator=generator, dtype=value.dtype).to(value) * 0.1)
    return method


def begun(name: str, folder: Path, *more: str):
    return dataclasses.replace(words_of(name, *more), from_run=str(folder))


def rest(method) -> dict:
    return {name: value for name, value in method.state_dict().items() if not name.startswith("encoder.")}


@pytest.mark.parametrize("name", NAMES)
def test_all_of_a_method_but_its_encoder_goes_through_the_file(name, tmp_path):
    before = stirred(made(name))
    folder, method = left_by(before, name, tmp_path / "a"), made(name)
    taken = method_file.take(method, begun(name, folder))
    assert not taken.left
    assert not taken.unused
    assert set(taken.taken) == rest(before).keys() == load_file(folder / "method.safetensors").keys()
    for key, value in rest(method).items():
        assert torch.equal(value, before.state_dict()[key]), key
    stated = continued.read_header(folder / "method.safetensors")
    assert (stated.name, stated.step, stated.settings) == (name, 7, cli.plain(words_of(name).method))
    assert encoders.Spec.of(dict(stated.encoder)) == before.encoder.spec


def test_at_another_size_positions_are_timms_interpolation(tmp_path):
    before = stirred(made("ibot"))
    folder = left_by(before, "ibot", tmp_path / "a")
    encoder, header = load_at(folder / "encoder.safetensors", 64)
    assert header.spec.image_size == 64
    wanted = resample_abs_pos_embed(before.encoder.pos_embed.detach(), [4, 4], [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(encoder.pos_embed.detach(), wanted, rtol=0, atol=1e-6)
    settings = begun("ibot", folder, "image_size=64")
    method = training.build_method(settings, encoder)
    taken = method_file.take(method, settings)
    wanted = resample_abs_pos_embed(before.teacher[0].pos_embed, [4, 4], [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(method.teacher[0].pos_embed, wanted, rtol=0, atol=1e-6)
    assert not taken.left
    assert "images of 64 px, there 96" in taken.changes[0]
    for key, value in rest(method).items():
        assert key == "teacher.0.pos_embed" or torch.equal(value, before.state_dict()[key]), key
    same, _ = load_at(folder / "encoder.safetensors", None)
    assert torch.equal(same.pos_embed, before.encoder.pos_embed)


def test_a_grid_of_another_shape_and_the_same_count_is_interpolated_too(tmp_path):
    encoder = encoders.create("test_vit", 1, (64, 144), "full")
    method = nn.Module()
    method.encoder = encoder
    header = artifact.EncoderHeader(encoder.spec, (0.5,), (0.5,), encoder.dim, {})
    (tmp_path / "x.safetensors").write_bytes(artifact.dumps(encoder, header, {}))
    found, _ = load_at(tmp_path / "x.safetensors", 96)
    before = encoder.pos_embed.detach()
    assert found.pos_embed.shape == before.shape
    table = before[:, 1:].reshape(1, 4, 9, -1).permute(0, 3, 1, 2)
    wanted = nn.functional.interpolate(table, (6, 6), mode="bicubic", antialias=True).permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(found.pos_embed.detach()[:, 1:], wanted)
    assert torch.equal(found.pos_embed[:, 0], before[:, 0])


def test_a_memory_of_another_size_stays_as_it_begins_and_is_named(tmp_path):
    folder = left_by(stirred(made("moco_v2")), "moco_v2", tmp_path / "a")
    method = made("moco_v2", "method.queue_size=32")
    queue = method.queue.rows.clone()
    taken = method_file.take(method, begun("moco_v2", folder, "method.queue_size=32"))
    assert set(taken.left) == {"queue.rows", "queue.oldest"}
    assert torch.equal(method.queue.rows, queue)
    assert "queue.rows: is 48×16 there and 32×16 here" in taken.notes[0]
    assert set(taken.json["taken"]) == rest(method).keys() - taken.left.keys()


def test_a_head_of_another_shape_is_refused_in_one_line(tmp_path):
    folder = left_by(made("byol"), "byol", tmp_path / "a")
    method, settings = made("byol", "method.hidden=48"), begun("byol", folder, "method.hidden=48")
    line = r"^from=.*: projector\.\S+ is 32.* there and 48.*method\.hidden=32 there, 48 here"
    with pytest.raises(ValueError, match=line) as e:
        method_file.take(method, settings)
    assert "\n" not in str(e.value)


def test_fixed_positions_stay_fixed(tmp_path):
    before = made("mae")
    assert not before.encoder.pos_embed.requires_grad
    folder = left_by(before, "mae", tmp_path / "a")
    encoder, _ = load_at(folder / "encoder.safetensors", None)
    encoder.trained = True
    method = training.build_method(begun("mae", folder), encoder.train())
    assert method.encoder.pos_embed.requires_grad
    method_file.take(method, begun("mae", folder))
    assert {name for name, p in method.encoder.named_parameters() if not p.requires_grad} == {"pos_embed"}


@pytest.mark.parametrize(("first", "second"), [(2, 0), (0, 2), (2, 3)])
def test_a_teacher_with_low_rank_changes_has_timms_names(first, second, tmp_path):
    def method_of(rank: int):
        torch.manual_seed(2)
        encoder = encoders.create("test_vit", 1, 96, "full").train()
        return training.build_method(words_of("ibot"), lora.attach(encoder, rank) if rank else encoder)

    before = stirred(method_of(first))
    folder = left_by(before, "ibot", tmp_path / "a")
    assert not [name for name in load_file(folder / "method.safetensors") if "parametrizations" in name]
    method = method_of(second)
    taken = method_file.take(method, begun("ibot", folder))
    assert not taken.left
    assert not taken.unused
    was, now = (lora.merged(m.teacher[0]).state_dict() for m in (before, method))
    for name, value in was.items():
        torch.testing.assert_close(now[name], value, rtol=0, atol=1e-6)


# ---- settings


def said(*words: str):
    return cli.compose(TOOL, cli.parse(list(words), TOOL.settings)[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A short run, of MoCo v2."""
    out = tmp_path_factory.mktemp("finished") / "run"
    ended = run(*SHAPE, *MOCO, "--steps=6", "--evals=1", f"--out={out}", logs=out.parent)
    assert ended.code == 0, ended.err
    return out


def test_the_method_and_its_settings_are_those_of_the_run(finished):
    settings = continued.adopted(TOOL, said("--from", str(finished), "--method.dim=8"))
    assert (settings.method.name, settings.method.hidden, settings.method.dim) == ("moco_v2", 32, 8)
    assert settings.from_run == str(finished)
    assert continued.adopted(TOOL, said("--method=byol")).from_run is None


def test_both_files_are_in_the_identity(finished):
    found = identity(continued.with_files(said(f"from={finished}")))
    assert found["encoder"] == f"content {digest_of(finished / 'encoder.safetensors')[:16]}"
    assert found["from_run"] == f"content {digest_of(finished / 'method.safetensors')[:16]}"
    assert "from_run" not in identity(said())
    again = continued.with_files(continued.with_files(said(f"from={finished}")))
    assert identity(again) == found


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--method=simclr"], r"^from=.*: was trained with method=moco_v2, and this run has method=simclr: .*encoder="),
        (["--method=moco_v2", "--encoder=resnet18"], r"^from=.*: brings its encoder; leave out encoder=resnet18"),
        (["--method=moco_v2", "--scratch"], r"^from=.*: brings its encoder; leave out scratch=true"),
        (["--from=/nowhere"], r"^from=/nowhere: there is no such folder"),
    ],
)
def test_mistakes_are_one_line(words, line, finished):
    with pytest.raises(ValueError, match=line) as found:
        check(said("--from", str(finished), *words))
    assert "\n" not in str(found.value)


def test_folders_without_the_files_are_refused(finished, tmp_path):
    with pytest.raises(ValueError, match=r"holds no encoder\.safetensors"):
        check(said("--from", str(tmp_path)))
    (tmp_path / "encoder.safetensors").write_bytes((finished / "encoder.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"has no method\.safetensors, which older versions did not write"):
        check(said("--from", str(tmp_path)))
    (tmp_path / "method.safetensors").write_bytes((finished / "encoder.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"is no method\.safetensors of nolabel"):
        check(said("--from", str(tmp_path)))


@pytest.mark.slow
def test_training_goes_on_from_it_elsewhere_and_resumes_to_the_same_bytes(finished, tmp_path):
    words = ["--from", finished, "--data=synthetic", "--image_size=24", "--batch_size=32", "--trackers=none", "--report=false"]
    words += ["--adapt", "--steps=20", "--evals=2", "--log_every=1"]
    whole = run(*words, f"--out={tmp_path / 'whole'}", logs=tmp_path)
    assert whole.code == 0, whole.err
    assert "note: from: " in whole.err
    assert "images of 24 px, there 16" in whole.err
    taken = json.loads((tmp_path / "whole" / "taken.json").read_text())
    assert set(taken["taken"]) == load_file(finished / "method.safetensors").keys()
    for pause in (["--pause_at=0.2"], []):
        ended = run(*words, *pause, f"--out={tmp_path / 'run'}", logs=tmp_path)
        assert ended.code == 0, ended.err
    for file in ("encoder.safetensors", "method.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    with safe_open(tmp_path / "run" / "method.safetensors", "np") as file:
        assert json.loads(file.metadata()[continued.KEY])["step"] == 20
    other = run(*words, "--method=byol", f"--out={tmp_path / 'other'}", logs=tmp_path)
    assert (other.code, other.line.startswith("error: from=")) == (2, True), other.err
    assert adapt.trained(said("--from", str(finished)))
