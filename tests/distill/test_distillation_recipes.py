"""The CIFAR-100 pairs: every recipe says what is expected of it, is the published setting, and can be built."""
import re
from pathlib import Path

import pytest
import torch
import yaml
from commands import shortened
from torch import nn

from core import cli
from core.training import build_method, learning_rate
from distill.teacher import Member, Teacher
from distill.train import TOOL, check, jobs
from vision import artifact, encoders
from vision.augment import Augmentation

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "distillation" / "cifar100"
PATHS = sorted(FOLDER.glob("*.yaml"))
TABLE = FOLDER.parents[1] / "tables" / "cifar100_distillation.yaml"
BETAS = {  # megvii-research/mdistiller, configs/cifar100/dkd
    "resnet32x4_resnet8x4": 8, "resnet50_mobilenetv2": 8, "resnet56_resnet20": 2, "vgg13_vgg8": 6, "wrn40_2_wrn16_2": 6,
    "wrn40_2_wrn40_1": 6,
}
METHODS = ("kd", "fitnet", "attention", "rkd", "pkt", "crd", "dkd", "kd_std")


@pytest.mark.parametrize("path", shortened(PATHS, 3), ids=lambda path: path.stem)
def test_a_recipe_says_what_it_expects_and_builds_with_every_method(path, tmp_path):
    text = path.read_text()
    assert "Not measured here" in text
    assert all(re.search(rf"\b{method} \d\d\.\d\d", text) for method in METHODS)
    large = re.search(r"CIFAR-100, (\S+) →", text)[1]
    network = encoders.create(large, 3, 32)
    head = nn.Linear(network.dim, 100)
    file = tmp_path / "t.safetensors"
    file.write_bytes(artifact.dumps(encoders.create("test_resnet", 3, 32), Augmentation(32, (0.5,) * 3, (0.2,) * 3), {}))
    for method in METHODS:
        words, _ = cli.with_recipe(TOOL, cli.parse(
            [f"--recipe={path}", f"--method={method}", f"--teacher={file}"], TOOL.settings)[0])
        words = cli.compose(TOOL, words)
        check(words)
        (job,) = jobs(words)
        assert (job.epochs, job.batch_size, list(job.steps_at)) == (240, 64, [150 / 240, 180 / 240, 210 / 240])
        assert learning_rate(job) == (0.01 if "mobilenet" in path.stem else 0.05)
        assert (job.optim.name, job.optim.momentum, job.optim.weight_decay, job.optim.decay_all) == ("sgd", 0.9, 5e-4, True)
        member = Member(large, network, head, tuple(map(str, range(100))), torch.zeros(3), torch.ones(3))
        student = encoders.create(job.encoder, 3, 32)
        assert build_method(job, student, teacher=Teacher([member], torch.zeros(3), torch.ones(3)), classes=100)


def test_there_is_one_for_every_pair():
    assert [path.stem for path in PATHS] == sorted(BETAS)


def test_dkds_beta_is_the_authors_for_each_pair():
    said = {path.stem: float(re.search(r"--method dkd say --method\.beta (\S+),", path.read_text())[1]) for path in PATHS}
    assert said == BETAS
    table = yaml.safe_load(TABLE.read_text())
    assert {row["with"]["pair"]: row["with"]["beta"] for row in table["rows"]} == BETAS
    assert table["cells"]["dkd"]["settings"]["method.beta"] == "{beta}"


def test_teacher_and_student_alone_are_trained_as_the_recipes_say():
    table = yaml.safe_load(TABLE.read_text())
    for row in table["rows"]:
        recipe = yaml.safe_load((FOLDER / f"{row['with']['pair']}.yaml").read_text())
        assert (row["with"]["student"], row["with"]["lr"]) == (recipe["student"], recipe["optim.lr"])
        for cell, lr in (("teacher", 0.05), ("alone", "{lr}")):
            words = table["cells"][cell]["settings"]
            names = set(recipe) - {"student", "epochs", "steps_at", "optim.lr"}
            assert {name: words[name] for name in names} == {name: recipe[name] for name in names}
            assert (words["epochs"], table["variables"]["epochs"]) == ("{epochs}", recipe["epochs"])
            assert (words["schedule.name"], words["schedule.at"], words["optim.lr"]) == ("step", recipe["steps_at"], lr)
