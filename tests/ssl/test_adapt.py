"""Continued pretraining: the recipe, the alarm, what is kept; and that without it nothing is other than it was."""
import contextlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run, shortened, start, together
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core import cli, gradcache, optim, training
from core.errors import Declined
from core.method import Batch
from ssl import adapt
from ssl.adaptation import Adaptation, pooling, with_lora
from ssl.health import Baselines, Health
from ssl.pretrain import TOOL, check
from ssl.watch import Watch
from vision import encoders, lora

SHAPE = ["--data=digits", "--image_size=16", "--batch_size=64", "--method.hidden=32", "--method.dim=16", "--trackers=none"]
HOT = ["--optim.lr=30", "--adapt.encoder_lr=10", "--adapt.warmup=0", "--adapt.ramp=0", "--adapt.ema=0"]
HOT += ["--adapt.batchnorm=train"]  # which keeps such a run's loss finite
CONVOLUTIONS = ("conv1.0.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight")


def settings_of(*words: str, tool=TOOL):
    return cli.compose(tool, cli.parse(list(words), tool.settings)[0])


def adapted(*words: str):
    return adapt.with_defaults(settings_of(*SHAPE, "--encoder=test_resnet", "--pretrained", "--adapt", *words))


def made(settings, name: str = "test_resnet", size: int = 16):
    """(method, its adaptation, started for 100 steps)"""
    torch.manual_seed(1)
    encoder = encoders.create(name, 1, size, "full").train()
    method = training.build_method(settings, with_lora(settings, encoder))
    adaptation = Adaptation(settings, method)
    adaptation.start(100)
    return method, adaptation


def batch(step: int = 0, size: int = 16, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch([torch.randn(16, 1, size, size, generator=generator).to(dtype) for _ in range(2)], torch.arange(16), step=step)


def train(method, adaptation, optimizer, progresses) -> None:
    """Steps as core/loop.py makes them."""
    for step, progress in enumerate(progresses):
        adaptation.begin(progress)
        optim.schedule(optimizer, 1e-2, None, progress)
        method(batch(step), progress).loss.backward()
        adaptation.backward_done(progress)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(None, progress)
        adaptation.end(progress)


def state(module: nn.Module) -> dict:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


# ---- settings


def test_adapt_chooses_what_is_not_said():
    chosen = adapted("--adapt.ramp=0.3", "--optim.weight_decay=0.1")
    assert (chosen.optim.name, chosen.optim.lr, chosen.optim.scaling, chosen.optim.weight_decay) == ("adamw", 1e-3, "sqrt", 0.1)
    assert (chosen.adapt.warmup, chosen.adapt.ramp, chosen.adapt.encoder_lr, chosen.adapt.keep) == (0.1, 0.3, 0.1, "best")
    assert adapt.with_defaults(chosen) == chosen
    assert adapted("--optim.name=sgd").optim.lr == settings_of().optim.lr, "an optimizer that is named keeps its own settings"
    plain = settings_of()
    assert adapt.with_defaults(plain) is plain


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--adapt"], r"^adapt\.on=true: there are no trained weights to begin with; add pretrained=true, weights=FILE, or"),
        (["--lora=4"], r"^lora=4: there are no trained weights"),
        (["--pretrained", "--adapt", "--adapt.old_data=/nowhere"], r"^adapt\.old_data=/nowhere: there is no such"),
        (["--pretrained", "--adapt", "--adapt.warmup=0.95"], r"^adapt\.warmup=0\.95: must be, with adapt\.ramp=0\.1"),
        (["--pretrained", "--adapt.stop_on_alarm"], r"^adapt\.stop_on_alarm=true: there is no alarm without adapt=true"),
        (["--pretrained", "--adapt", "--adapt.keep=first"], r"^adapt\.keep=first: must be best or last or start-if-worse"),
        (["--pretrained", "--adapt", "--method=moco_v3_vit"], r"^method\.frozen_patch_embedding=true: replaces the positions"),
    ],
)
def test_mistakes_are_refused_before_anything_is_loaded(words, line):
    with pytest.raises(ValueError, match=line):
        check(settings_of("--encoder=test_vit", *words))


# ---- training


@pytest.mark.parametrize("method", ["simclr", "moco_v3"])
def test_the_encoder_waits_and_its_statistics_with_it(method):
    settings = adapted(f"--method={method}", "--adapt.warmup=0.5", "--adapt.ramp=0.2", "--adapt.batchnorm=train")
    method, adaptation = made(settings)
    before, teacher = state(method.encoder), getattr(method, "teacher", None)
    heads, old_teacher = state(method.projector), state(teacher[0]) if teacher else {}
    optimizer = optim.build(method, settings.optim, 1e-2)
    train(method, adaptation, optimizer, [0.0, 0.2, 0.4])
    assert same(before, method.encoder.state_dict())
    assert not same(heads, method.projector.state_dict())
    if teacher:
        assert same(old_teacher, teacher[0].state_dict())
    train(method, adaptation, optimizer, [0.6, 0.8])
    assert not any(torch.equal(method.encoder.get_parameter(name), before[name]) for name in CONVOLUTIONS)
    assert not torch.equal(method.encoder.bn1.running_mean, before["bn1.running_mean"])


@pytest.mark.parametrize(("value", "new_stem", "moves"), [("auto", False, False), ("auto", True, True), ("fixed", True, False)])
def test_statistics_stay_the_weights_unless_the_stem_is_new(value, new_stem, moves):
    torch.manual_seed(1)
    encoder = encoders.create("test_resnet", 1, 16, "full").train()
    encoder.adapted = ("conv1.0.weight",) if new_stem else ()
    settings = adapted("--adapt.warmup=0", "--adapt.ramp=0", f"--adapt.batchnorm={value}")
    method = training.build_method(settings, encoder)
    adaptation, before = Adaptation(settings, method), state(encoder)
    adaptation.start(100)
    train(method, adaptation, optim.build(method, settings.optim, 1e-2), [0.1, 0.2])
    now = encoder.state_dict()
    assert torch.equal(now["bn1.running_mean"], before["bn1.running_mean"]) is not moves
    assert not torch.equal(now["layer4.0.conv1.weight"], before["layer4.0.conv1.weight"])


def test_rates_rise_by_layer_after_the_wait():
    settings = adapted("--adapt.warmup=0.2", "--adapt.ramp=0.4", "--adapt.layer_decay=0.5", "--adapt.stem_lr=0.1")
    method, _ = made(settings)
    optimizer = optim.build(method, settings.optim, 1.0)

    def rate(parameter, progress):
        optim.schedule(optimizer, 1.0, None, progress)
        return next(g["lr"] for g in optimizer.param_groups if any(p is parameter for p in g["params"]))

    encoder = method.encoder
    last, stem, head = encoder.layer4[0].conv1.weight, encoder.conv1[0].weight, method.projector[0].weight
    assert [rate(last, at) for at in (0, 0.19)] == [0, 0]
    assert [rate(last, at) for at in (0.4, 0.6, 0.9)] == pytest.approx([0.025, 0.05, 0.05])  # encoder_lr 0.1, decay 0.5
    assert rate(stem, 0.9) == pytest.approx(0.1 * 0.5**5 * 0.1)
    assert [rate(head, at) for at in (0, 0.9)] == [1, 1]


def test_a_stem_of_other_channels_trains_from_the_first_step():
    settings = adapted("--adapt.warmup=0.5")
    torch.manual_seed(1)
    encoder = encoders.create("test_resnet", 1, 16, "full").train()
    encoder.adapted = ("conv1.0.weight",)
    method = training.build_method(settings, encoder)
    adaptation, before = Adaptation(settings, method), state(encoder)
    adaptation.start(100)
    train(method, adaptation, optim.build(method, settings.optim, 1e-2), [0.0, 0.1])
    assert {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])} == {"conv1.0.weight"}


def test_the_average_is_torchs():
    settings = adapted("--adapt.warmup=0", "--adapt.ramp=0", "--adapt.ema=0.7")
    method, adaptation = made(settings)
    peer = AveragedModel(method.encoder, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True)
    peer.update_parameters(method.encoder)  # its first update copies
    method.train()
    optimizer = optim.build(method, settings.optim, 1e-2)
    for step in range(3):
        method(batch(step), 0.5).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        adaptation.end(0.5)
        peer.update_parameters(method.encoder)
    for name, value in adaptation.result.named_parameters():
        torch.testing.assert_close(value, peer.module.get_parameter(name).detach(), msg=name)
    torch.testing.assert_close(adaptation.result.bn1.running_mean, peer.module.bn1.running_mean)


def test_lora_moves_nothing_else_and_is_averaged_as_weights():
    settings = adapted("--lora=2", "--adapt.warmup=0", "--adapt.ramp=0", "--adapt.ema=0.5", "--image_size=32")
    method, adaptation = made(settings, "test_vit", 32)
    before = state(lora.merged(method.encoder))
    method.train()
    optimizer = optim.build(method, settings.optim, 1e-2)
    for step in range(2):
        adaptation.begin(0.5)
        method(batch(step, 32), 0.5).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adaptation.end(0.5)
    now, average = lora.merged(method.encoder).state_dict(), adaptation.result.state_dict()
    moved = {name for name, value in now.items() if not torch.equal(value, before[name])}
    assert moved == {f"blocks.{i}.attn.{layer}.weight" for i in range(6) for layer in ("qkv", "proj")}
    for name in now:
        torch.testing.assert_close(average[name], (before[name] + now[name]) / 2)


def test_lora_has_the_whole_batchs_gradient_in_chunks():
    settings = adapted("--lora=2", "--image_size=32")

    def gradients(chunk: int) -> torch.Tensor:
        method, _ = made(settings, "test_vit", 32)
        method.double().train()
        for module in method.modules():
            if isinstance(module, lora.LowRank):
                nn.init.constant_(module.up, 0.1)
        if chunk:
            gradcache.backward(method, batch(0, 32, torch.float64), chunk, 0.5, contextlib.nullcontext)
        else:
            method(batch(0, 32, torch.float64), 0.5).loss.backward()
        found = [p.grad.flatten() for p in method.encoder.parameters() if p.requires_grad]
        assert len(found) == 24
        return torch.cat(found)

    whole = gradients(0)
    assert (gradients(4) - whole).abs().max() < 1e-12 * max(1, whole.abs().max())


def test_pooling_is_said():
    kinds = {name: pooling(encoders.create(name, 3, 32, "full")) for name in ("test_vit", "test_resnet", "test_convnext")}
    assert kinds == dict.fromkeys(kinds, "the mean of all places") | {"test_vit": "the class token"}


# ---- the alarm and what is kept


def watched(monkeypatch, checks: list[dict], **fields) -> Watch:
    """A watch of labelled images whose checks find these figures, after a start of 80 %."""
    watch = Watch.__new__(Watch)
    known = {"criterion": "knn", "bank": [], "watched": range(100), "history": [], "best": None, "keep": "best", "stop": False}
    for name, value in (known | {"old": None, "baselines": Baselines({}, {"knn": 80.0, "rankme": 30.0})} | fields).items():
        setattr(watch, name, value)
    found = iter(checks)

    def check(self, step, encoder, stop, training):
        self.history.append((step, next(found)))
        return self.history[-1][1]

    monkeypatch.setattr(Health, "check", check)
    return watch


def figures(knn: float, lost: int = 0, gained: int = 0) -> dict:
    return {"knn": knn, "rankme": 30.0, "lost": lost, "gained": gained}


def test_two_alarms_in_a_row_end_a_run_that_is_to_stop(monkeypatch, capsys):
    checks = [figures(50, 35, 5), figures(79, 2, 1), figures(60, 25, 5), figures(55, 30, 5)]
    watch = watched(monkeypatch, checks, stop=True)
    for step in (10, 20, 30):
        watch.check(step, nn.Linear(1, 1), False)
    with pytest.raises(Declined, match=r"^adapt\.stop_on_alarm: by step 40 kNN went from 80\.0 to 55\.0 % of 100 validation"):
        watch.check(40, nn.Linear(1, 1), False)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"ALARM at step {step}" for step in (10, 30, 40)]


@pytest.mark.parametrize(
    ("keep", "scores", "kept", "sentence"),
    [
        ("best", [70, 85, 85, 82], 2, "Kept: the weights of step 2, the best by kNN on validation images: 85.0 %"),
        ("best", [70, 80, 75, 79], 0, "Kept: the weights that training began with; no check had a higher kNN"),
        ("last", [70, 85, 85, 60], 4, "Kept: the weights of step 4, the last: 60.0 %, at the start 80.0 %."),
        ("start-if-worse", [70, 85, 85, 82], 4, "Kept: the weights of step 4, the last, not worse: 82.0 %"),
        ("start-if-worse", [70, 85, 85, 79], 0, "Kept: the weights that training began with; the last ones had a lower kNN"),
    ],
)
def test_what_is_kept(monkeypatch, keep, scores, kept, sentence):
    watch, encoder, begin = watched(monkeypatch, list(map(figures, scores)), keep=keep), nn.Linear(1, 1), nn.Linear(1, 1)
    for step in range(1, 5):
        nn.init.constant_(encoder.weight, step)
        watch.check(step, encoder, False)
    nn.init.constant_(begin.weight, 0)
    assert watch.kept(encoder, lambda: begin).weight.item() == watch.kept_check[0] == kept
    assert watch.closing()[0].startswith(sentence)


# ---- runs


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """An encoder of a few steps."""
    out = tmp_path_factory.mktemp("first") / "run"
    ended = run(*SHAPE, "--encoder=test_resnet", "--steps=30", "--evals=1", "--report=false", f"--out={out}", logs=out.parent)
    assert ended.code == 0, ended.err
    return out / "encoder.safetensors"


def rows(out: Path) -> list[dict]:
    clock = {"images_per_second", "waiting_for_data"}
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in clock} for row in found]


def test_a_rate_far_too_high_alarms_and_the_start_is_kept(tmp_path, first):
    out = tmp_path / "run"
    words = [*SHAPE, f"--encoder={first}", "--adapt", *HOT, "--steps=16", "--evals=2", "--stop_on_collapse=false"]
    ended = run(*words, f"--out={out}", logs=tmp_path)
    assert ended.code == 0, ended.err
    alarm = next(line for line in ended.err.splitlines() if line.startswith("ALARM at step 16: "))
    assert "kNN went from" in alarm
    assert "adapt.encoder_lr" in alarm
    report = (out / "report.md").read_text()
    assert "Health: ALARM: kNN went from" in report
    assert "Kept: the weights that training began with; no check had a higher kNN on validation images than their" in report
    assert load_file(out / "encoder.safetensors").keys() == load_file(first).keys()
    assert same(load_file(first), load_file(out / "encoder.safetensors"))
    curve = rows(out)
    assert curve[0]["step"] == 0
    assert curve[0]["knn"] > curve[-1]["knn"] + 20


def test_without_labels_the_rank_decides_and_the_old_domain_is_watched(tmp_path, first):
    rng = np.random.default_rng(0)
    for kind, (low, high) in {"dark": (0, 60), "light": (190, 250)}.items():
        (tmp_path / "old" / kind).mkdir(parents=True)
        for i in range(12):
            picture = Image.fromarray(rng.integers(low, high, (16, 16), np.uint8))
            picture.save(tmp_path / "old" / kind / f"{i}.png")
    out = tmp_path / "run"
    words = [*SHAPE, "+data.labels=none", f"--encoder={first}", "--adapt", f"--adapt.old_data={tmp_path / 'old'}", "--steps=4"]
    ended = run(*words, "--evals=2", "--workers=1", f"--out={out}", logs=tmp_path)
    assert ended.code == 0, ended.err
    curve, report = [row for row in rows(out) if "rankme" in row], (out / "report.md").read_text()
    assert [row["step"] for row in curve] == [0, 2, 4]
    assert all("old_knn" in row and "knn" not in row for row in curve)
    assert {"old_lost", "old_gained"} <= curve[1].keys()
    best = max(curve, key=lambda row: row["rankme"])
    assert ("Kept: the weights that training began with" if not best["step"] else f"step {best['step']}, the best") in report
    assert "effective rank (RankMe, for want of labels)" in report
    assert f"Old domain: kNN {best['old_knn']:.1f} %, at the start {curve[0]['old_knn']:.1f} %." in report


@pytest.mark.parametrize("more", shortened([([],), (["--method=moco_v3", "--adapt.keep=last"],)]))
@pytest.mark.slow
def test_paused_and_resumed_it_leaves_the_same_bytes(tmp_path, first, more):
    words = [*SHAPE, f"--encoder={first}", "--adapt", "--steps=30", "--evals=3", "--log_every=1", "--report=false", *more]
    whole = run(*words, f"--out={tmp_path / 'whole'}", logs=tmp_path)
    assert whole.code == 0, whole.err
    for pause in (["--pause_at=0.5"], []):
        ended = run(*words, *pause, f"--out={tmp_path / 'run'}", logs=tmp_path)
        assert ended.code == 0, ended.err
    assert (tmp_path / "run" / "encoder.safetensors").read_bytes() == (tmp_path / "whole" / "encoder.safetensors").read_bytes()
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert not {"report.md", "report.html"} & {path.name for path in (tmp_path / "run").iterdir()}, "report=false"


@pytest.mark.long
def test_lora_killed_and_resumed_leaves_the_same_bytes(tmp_path):
    shape = ["--data=digits", "--image_size=32", "--batch_size=64", "--method.hidden=32", "--method.dim=16", "--trackers=none"]
    begin = tmp_path / "first"
    assert run(*shape, "--encoder=test_vit", "--steps=5", "--report=false", f"--out={begin}", logs=tmp_path).code == 0
    words = [*shape, f"--encoder={begin / 'encoder.safetensors'}", "--adapt", "--lora=2", "--steps=20", "--evals=2"]
    words += ["--log_every=1", "--report=false", "--save_minutes=0.0001"]
    assert run(*words, f"--out={tmp_path / 'whole'}", logs=tmp_path).code == 0
    out = tmp_path / "run"
    process = start(*words, f"--out={out}", logs=tmp_path / "killed")
    process.until(out / "metrics.jsonl", 9)
    process.send(signal.SIGKILL)
    process.wait()
    assert run(*words, f"--out={out}", logs=tmp_path).code == 0
    assert (out / "encoder.safetensors").read_bytes() == (tmp_path / "whole" / "encoder.safetensors").read_bytes()
    assert load_file(out / "encoder.safetensors").keys() == load_file(begin / "encoder.safetensors").keys()


@pytest.mark.long
@pytest.mark.parametrize("more", [[], ["--chunk=16"], ["--method=moco_v3"]])
def test_two_processes_are_one_run(tmp_path, first, more):
    """While the encoder waits, float32's rounding has nowhere to grow but in the heads."""
    words = [*SHAPE, f"--encoder={first}", "--adapt", "--adapt.warmup=0.5", "--steps=6", "--evals=2", "--log_every=1", *more]
    words += ["--report=false", "--precision=fp32"]
    assert run(*words, f"--out={tmp_path / 'one'}", logs=tmp_path).code == 0
    for job in together(*words, f"--out={tmp_path / 'two'}", logs=tmp_path / "logs"):
        ended = job.wait()
        assert ended.code == 0, ended.err
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["loss"] for row in two[1:4]] == pytest.approx([row["loss"] for row in one[1:4]], rel=1e-4)
    assert [row["step"] for row in two] == [row["step"] for row in one]
    assert two[0]["knn"] == one[0]["knn"]
