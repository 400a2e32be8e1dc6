"""The command with `--shard`: it runs to its report, stops and goes on, alone too; mistakes are one line; its memory."""

import json

import pytest
import torch
from commands import ROOT, SMALL, run, together
from processes import on
from safetensors.torch import load_file
from small_methods import batch, made
from torch import nn

from core.footprint import by_shapes, kept_by_forward, predict
from core.shard import shard_
from experiments import memory
from vision import encoders
from vision.build import checkpoint_blocks

MAE = [word for word in SMALL if "method." not in word and "encoder" not in word and "image_size" not in word]
MAE += ["--method=mae", "--encoder=test_vit", "--image_size=64", "--method.decoder_width=32", "--method.decoder_depth=1"]
MAE += ["--method.decoder_heads=2", "--precision=fp32", "--steps=4", "--evals=2"]
FILES = ("encoder.safetensors", "method.safetensors")


def on_two(*words, out) -> None:
    ended = [process.wait() for process in together(*words, f"--out={out}", logs=out.with_name(out.name + "-logs"))]
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
    assert (ended[1].out, ended[1].err) == ("", "")


@pytest.mark.slow
def test_a_run_is_paused_as_rows_and_ended_by_one_process(tmp_path):
    """Its figures are those of a run without `shard` on as many processes, to float32's rounding."""
    sharded, plain = tmp_path / "sharded", tmp_path / "plain"
    pause = ["--pause_at=0.02"]
    on_two(*MAE, "--shard", *pause, out=sharded)
    assert [path.name for path in (sharded / "last").iterdir()] == ["2"]
    assert not (sharded / "last.pt").exists()
    on_two(*MAE, *pause, out=plain)
    for name in FILES:
        one, other = load_file(plain / name), load_file(sharded / name)
        assert one.keys() == other.keys()
        for key in one:
            torch.testing.assert_close(other[key], one[key], rtol=1e-4, atol=1e-6, msg=key)
    ended = run(*MAE, "--shard", f"--out={sharded}", logs=tmp_path / "log")
    assert ended.code == 0, ended.err
    assert "going on from step 2" in ended.err
    assert (sharded / "last.pt").exists()
    assert not (sharded / "last").exists()
    assert (sharded / "report.md").exists()


@pytest.mark.long
def test_a_convolutional_run_ends_on_two_with_its_report(tmp_path):
    """BatchNorm over both, moving average, evaluations, chunks; figures to float32's rounding in the first two steps."""
    words = [*SMALL, "--method=moco_v3", "--chunk=4", "--precision=fp32", "--steps=4", "--evals=2"]
    found = []
    for more in ([], ["--shard"]):
        out = tmp_path / f"run{len(found)}"
        on_two(*words, *more, out=out)
        assert (out / "report.md").exists()
        found.append([json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()])
    assert found[1][:2] == pytest.approx(found[0][:2], rel=2e-6)


@pytest.mark.parametrize(("words", "expected"), [
    (["--compile"], "shard=true: is not possible with compile"),
    (["--optim.name=muon"], "shard=true: is not possible with optim.name=muon; Muon needs whole matrices"),
    (["--lora=2"], "shard=true: is not possible with lora"),
])
def test_what_cannot_be_sharded_is_one_line(tmp_path, words, expected):
    ended = run(*SMALL, "--method=simclr", "--shard", *words, f"--out={tmp_path / 'run'}", logs=tmp_path / "log")
    assert ended.code == 2
    assert expected in ended.line


# ---- memory


def counted() -> dict[str, int]:
    """What torch's own tracker counts after a step, before the gradients go."""
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

    method, device = made("dinov2"), torch.device("cpu")
    shard_(method, device)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad])
    with FSDPMemTracker(method, optimizer) as tracker:
        method(batch("dinov2"), 0.0).loss.backward()
        optimizer.step()
        found, peak = (tracker.get_tracker_snapshot(kind)[device] for kind in ("current", "peak"))
    steps = sum(state["step"].nbytes for state in optimizer.state.values())
    return {getattr(kind, "value", kind): value for kind, value in found.items()} | {
        "steps": steps, "whole": sum(peak[kind] for kind in peak if getattr(kind, "value", "") in WHOLE)
    }


WHOLE = ("Unsharded Param", "Unsharded Grad", "All Gather", "Reduce Scatter")


@pytest.mark.slow
def test_predicted_states_are_those_that_torch_counts():
    found, method = on(2, counted, timeout=400)[0], made("dinov2")
    rows, whole = predict(method, "adamw", 2, shard=True), predict(method, "adamw", 2)
    assert found["Sharded Param"] == rows.parameters + rows.frozen
    assert found["Sharded Grad"] == rows.gradients
    assert found["OptState"] == rows.optimizer + found["steps"]
    assert 0 < found["whole"] <= rows.gathered
    assert whole.states == 4 * 4 * count(method, True) + 4 * count(method, False), "float32: weight, gradient, two moments"
    assert rows.states < 0.55 * whole.states
    assert predict(method, "adamw", 1, shard=True) == predict(method, "adamw", 1)


def count(module: nn.Module, trained: bool) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad == trained)


def test_predicted_activations_are_those_that_a_forward_pass_keeps():
    """With shapes alone, and counted in a real pass; with checkpointing and without."""

    def plain() -> nn.Module:
        return encoders.create("vit_tiny_patch16_224", 3, 64, "full").train()

    def checkpointed() -> nn.Module:
        encoder = plain()
        checkpoint_blocks(encoder)
        return encoder

    def passed(encoder: nn.Module) -> int:
        return kept_by_forward(encoder, [torch.zeros(2, 3, 64, 64)] * 2)

    whole, again = passed(plain()), passed(checkpointed())
    assert (by_shapes(plain, passed), by_shapes(checkpointed, passed)) == (whole, again)
    assert again < 0.2 * whole


def test_kept_bytes_of_a_layer_by_hand():
    layer = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    x = torch.zeros(3, 8)
    assert kept_by_forward(layer, [x]) == 4 * 3 * (8 + 16 + 16), "input, what GELU sees, what the last layer sees"


def test_the_documented_table_is_that_of_the_kept_file():
    document = json.loads(memory.KEPT.read_text())
    text = (ROOT / "docs" / "cluster.md").read_text()
    assert memory.table(document) in text
    for state in document["measured"].values():
        assert state["measured"] == state["predicted"]
        assert f"{state['measured'] / 1e6:.1f} MB" in text
