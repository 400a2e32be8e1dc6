"""Runs that must end early do, and say where and why; the three methods as they are do not."""
import json
import math
from pathlib import Path

import pytest
import torch
from commands import SMALL, run, shortened

from core import checkpoint

COLLAPSING = '''
from torch.nn import functional as F
from core.method import Method, Output

class Collapsing(Method):
    """Two views must be alike, and nothing keeps images apart: no negatives, no predictor, no stop-gradient."""

    def __init__(self, encoder, hidden, dim, temperature):
        super().__init__()
        self.encoder = encoder

    def forward(self, batch, progress):
        first, second = (self.encoder(view) for view in batch.views)
        return Output(-F.cosine_similarity(first, second).mean())
'''


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run_with_the_step(tmp_path):
    """At a learning rate of 1e30 the weights overflow at once; the run was healthy up to step 4, and that save stays."""
    words, out = [*SMALL, "--steps=40", "--save_minutes=0.0001"], tmp_path / "run"
    hot = ["--optim.name=sgd", "--optim.lr=1e30", "--optim.warmup=0.1", "--log_every=50"]
    ended = run(*words, *hot, f"--out={out}", logs=tmp_path / "logs")
    assert ended.code == 1, ended.err
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in ended.err
    assert "at step 2 " in errors[0] or "at step 3 " in errors[0], "the rate is 0 at step 1 and 2.5e29 at step 2"
    assert "optim.lr" in errors[0]
    state = checkpoint.load(out / "last.pt")
    assert state["step"] in (1, 2)
    assert all(t.isfinite().all() for t in state["method"].values() if t.is_floating_point())
    assert not (out / "encoder.safetensors").exists()


COLLAPSES = {  # a transformer falls into a point at once; BatchNorm keeps a ResNet's features apart for 150 steps
    "test_vit": ["--image_size=32", "--optim.lr=0.001", "--steps=100"],
    "test_resnet": ["--optim.lr=0.01", "--optim.end_lr=0.01", "--steps=400"],
}


@pytest.mark.parametrize("encoder", shortened(COLLAPSES))
@pytest.mark.slow
def test_a_method_that_collapses_is_stopped(tmp_path, encoder):
    """Through the command itself: method._target_ names a class of the user's own."""
    (tmp_path / "mine.py").write_text(COLLAPSING)
    words = ["--data=digits", "+data.labels=none", "--method._target_=mine.Collapsing", f"--encoder={encoder}"]
    words += ["--batch_size=32", "--evals=10", "--optim.name=adamw", "--optim.scaling=none", *COLLAPSES[encoder]]
    out = tmp_path / "run"
    ended = run(*words, f"--out={out}", logs=tmp_path / "logs", PYTHONPATH=str(tmp_path))
    print([(r["step"], r["feature_std"], r["rankme"], r["uniformity"]) for r in rows(out) if "rankme" in r])
    assert ended.code == 1, ended.err
    error = ended.err.splitlines()[-1]
    assert error.startswith("error: features collapsed by step ")
    assert "Likely cause" in error
    assert not (out / "encoder.safetensors").exists()
    assert checkpoint.load(out / "last.pt")["step"] > 0, "the save of the check before"


@pytest.mark.long
@pytest.mark.parametrize("method", shortened(["simclr", "moco_v2", "moco_v3"]))
def test_the_methods_are_not_taken_for_collapsed(tmp_path, method):
    """100 steps of digits at each method's own settings, checked ten times; only its width is less."""
    words = ["--data=digits", "+data.labels=none", f"--method={method}", "--batch_size=64", "--steps=100", "--evals=10"]
    words += ["--encoder=test_resnet", "--method.hidden=256", "--method.dim=64"]
    ended = run(*words, f"--out={tmp_path / 'run'}", logs=tmp_path / "logs")
    checks = [(r["step"], r["feature_std"], r["rankme"], r["uniformity"]) for r in rows(tmp_path / "run") if "rankme" in r]
    print(method, checks)
    assert ended.code == 0, ended.err
    assert [step for step, *_ in checks] == list(range(10, 101, 10))
    assert all(math.isfinite(value) for row in rows(tmp_path / "run") for value in row.values())
    assert (tmp_path / "run" / "encoder.safetensors").exists()
    assert torch.tensor([rank for _, _, rank, _ in checks]).min() > 2 * 2.0, "twice the rank that counts as collapsed"
