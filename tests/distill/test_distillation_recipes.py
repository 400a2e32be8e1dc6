"""The CIFAR-100 pairs: every recipe says what is expected of it, is the published setting, and can be built."""
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from core import config
from core.command import build_method, learning_rate
from distill.teacher import Member, Teacher
from distill.train import TOOL, check, jobs
from vision import encoders

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "distillation" / "cifar100"
PATHS = sorted(FOLDER.glob("*.yaml"))
METHODS = ("kd", "fitnet", "attention", "rkd", "pkt", "crd", "dkd", "kd_std")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_expects_and_builds_with_every_method(path, tmp_path):
    text = path.read_text()
    assert "Not measured here" in text
    assert all(re.search(rf"\b{method} \d\d\.\d\d", text) for method in METHODS)
    large = re.search(r"CIFAR-100, (\S+) →", text)[1]
    network = encoders.create(large, 3, 32)
    head = nn.Linear(network.dim, 100)
    file = tmp_path / "t.safetensors"
    file.touch()
    for method in METHODS:
        words, _ = config.with_recipe(TOOL, config.overrides(
            [f"--recipe={path}", f"--method={method}", f"--teacher={file}"], TOOL.words)[0])
        words = config.compose(TOOL, words)
        check(words)
        (job,) = jobs(words)
        assert (job.epochs, job.batch_size, list(job.steps_at)) == (240, 64, [150 / 240, 180 / 240, 210 / 240])
        assert learning_rate(job) == (0.01 if "mobilenet" in path.stem else 0.05)
        assert (job.optim.name, job.optim.momentum, job.optim.weight_decay, job.optim.decay_all) == ("sgd", 0.9, 5e-4, True)
        member = Member(large, network, head, tuple(map(str, range(100))), torch.zeros(3), torch.ones(3))
        student = encoders.create(job.encoder, 3, 32)
        assert build_method(job, student, teacher=Teacher([member], torch.zeros(3), torch.ones(3)), classes=100)


def test_there_is_one_for_every_pair():
    assert len(PATHS) == 6
