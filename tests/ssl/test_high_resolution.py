"""DINOv3's Gram teacher on clean views, and its stage of larger crops: what it computes, and that a run resumes across it."""
from dataclasses import replace

import pytest
import torch
from small_methods import batch, made
from torch.nn import functional as F
from torchvision.transforms.functional import InterpolationMode, resize

import ssl.pretrain
from core import cli
from vision import tokens

RUN = ["--method=dinov3", "--data=digits", "--augment=dinov3", "--encoder=test_vit", "--image_size=32", "--batch_size=16"]
RUN += ["--method.hidden=16", "--method.dim=8", "--method.prototypes=20", "--method.gram_at=[0.2,0.5,0.8]", "--log_every=1"]
RUN += ["--augment.local.views=1", "--augment.local.size=0.5", "--trackers=none", "--device=cpu", "--workers=0"]
RUN += ["--report=false", "--steps=6", "--evals=1", "--augment.clean.size=2"]
LARGER = "--augment.high_resolution={size:1.5,since:0.5}"


def with_clean(data, factor: int):
    return replace(data, clean=[F.interpolate(view, scale_factor=factor, mode="bilinear") for view in data.views])


def test_the_gram_teacher_sees_clean_views_shrunk_to_the_students_grid():
    method = made("dinov3", dtype=torch.float64)
    method.after_step(None, 0.0)
    data = with_clean(batch("dinov3", dtype=torch.float64), 2)
    found = method.targets(data).gram
    for i in range(2):
        large = tokens.tokens(method.gram.module, data.clean[i])
        assert large.grid == (12, 12)
        peer = resize(large.map, [6, 6], InterpolationMode.BICUBIC, antialias=False).flatten(2).mT
        torch.testing.assert_close(found[:, i], peer.detach(), rtol=1e-5, atol=1e-6)  # it is made in float32 at least
    same = with_clean(batch("dinov3", dtype=torch.float64), 1)
    assert torch.equal(method.targets(same).gram, method.targets(batch("dinov3", dtype=torch.float64)).gram)


def test_larger_crops_have_masks_of_their_own_grid_and_grams_other_weight():
    method = made("dinov3", "method.gram_weight=2", "method.gram_weight_high=0.5", dtype=torch.float64)
    method.after_step(None, 0.0)
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.mul_(1.05)  # away from its earlier teacher
    for size, weight in ((96, 2.0), (144, 0.5)):
        data = batch("dinov3", dtype=torch.float64, size=size)
        assert method.masking_of(data).grid == (size // 16, size // 16)
        assert method.embed(data)[1].shape[2] == int((size // 16) ** 2 * 0.5)
        output = method(data, 0.5)
        method.gram_weight, method.gram_weight_high = method.gram_weight + 1, method.gram_weight_high + 1
        heavier = method(data, 0.5)
        method.gram_weight, method.gram_weight_high = method.gram_weight - 1, method.gram_weight_high - 1
        torch.testing.assert_close(heavier.loss - output.loss, output.scalars["gram"], rtol=1e-6, atol=1e-9)
        without = output.loss - weight * output.scalars["gram"]
        method.gram_weight, method.gram_weight_high, kept = 0.0, 0.0, (method.gram_weight, method.gram_weight_high)
        torch.testing.assert_close(method(data, 0.5).loss, without, rtol=1e-6, atol=1e-9)
        method.gram_weight, method.gram_weight_high = kept


def run(out, *more: str) -> bytes:
    words, _ = cli.parse([*RUN, *more, f"--out={out}"], ssl.pretrain.TOOL.settings)
    assert ssl.pretrain.run(cli.compose(ssl.pretrain.TOOL, words)) == 0
    return (out / "encoder.safetensors").read_bytes() + (out / "method.safetensors").read_bytes()


def test_a_run_resumes_across_the_border_to_the_same_bytes(tmp_path, capsys):
    whole = run(tmp_path / "whole", LARGER)
    notes = capsys.readouterr().err
    assert "augment.clean: clean views of 64 px from step 2 on" in notes
    assert "augment.high_resolution: global crops of 48 px from step 3 on, of 32 px before" in notes
    run(tmp_path / "paused", LARGER, "--pause_at=0.025")
    assert "paused at step 2 of 6" in capsys.readouterr().err
    assert run(tmp_path / "paused", LARGER) == whole
    assert run(tmp_path / "plain") != whole


def test_methods_of_one_grid_and_encoders_of_one_size_refuse(tmp_path):
    words = [word for word in RUN if not word.startswith(("--method", "--augment"))]

    def refused(*more: str) -> str:
        given, _ = cli.parse([*words, *more, f"--out={tmp_path / 'run'}"], ssl.pretrain.TOOL.settings)
        with pytest.raises(ValueError) as error:  # noqa: PT011 (the line is looked at below)
            ssl.pretrain.run(cli.compose(ssl.pretrain.TOOL, given))
        return str(error.value)

    larger = "+augment.high_resolution={size:2,since:0.5}"
    assert refused("--method=mae", "--image_size=64", larger).startswith("augment.high_resolution: method=mae masks the grid")
    assert "takes images of 32 px alone" in refused("--method=simclr", "--encoder=mixer_s32_224", "--image_size=32", larger)
