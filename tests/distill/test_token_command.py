"""`python -m distill.train --method tokens`: one pass of the teacher for all students, the same bytes without a cache."""
import json

import pytest
import torch
from commands import run, start
from torch import nn

from vision import artifact, datasets, encoders
from vision.augment import Augmentation

MODULE = "distill.train"
SMALL = ["--data=digits", "--image_size=16", "--batch_size=256", "--steps=8", "--log_every=1", "--method=tokens",
         "--method.components=16"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("teachers"), datasets.load("digits")
    torch.manual_seed(5)
    for name in ("test_resnet", "test_vit"):
        encoder = encoders.create(name, 1, 16)
        recipe = Augmentation(16, data.mean, data.std)
        (folder / f"{name}.safetensors").write_bytes(
            artifact.dumps(encoder, recipe, {}, nn.Linear(encoder.dim, 10), data.classes))
    return folder


@pytest.mark.long
def test_students_share_one_pass_of_two_teachers_at_two_sizes(files, tmp_path):
    words = [f"--teacher={files}/test_resnet.safetensors,{files}/test_vit.safetensors", "--teacher_sizes=[8,16]", *SMALL]
    two, cache = "--student=test_vit,test_resnet", tmp_path / "c"
    ended = run(*words, two, f"--out={tmp_path / 'o'}", f"--cache={cache}", logs=tmp_path / "l", module=MODULE)
    assert ended.code == 0, ended.err
    assert "16 of 96 principal components, which have" in ended.err
    counts = [json.loads((tmp_path / "o" / s / "results.json").read_text())["cache"] for s in ("test_vit", "test_resnet")]
    assert counts == [{"hits": 0, "misses": 8}, {"hits": 8, "misses": 0}]
    words += ["--student=test_resnet"]
    assert run(*words, f"--out={tmp_path / 'n'}", "--cache=none", logs=tmp_path / "l", module=MODULE).code == 0
    one, other = (artifact.load(tmp_path / p / "encoder.safetensors")[0].state_dict() for p in ("o/test_resnet", "n"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    short = [*words, f"--out={tmp_path / 'b'}", f"--cache={tmp_path / 'd'}", "--cache_gb=0.0001"]
    ended = run(*short, logs=tmp_path / "l", module=MODULE)
    assert "cache_gb=0.0001: the teacher's outputs of 0 of 2 epochs are kept, of 0.000" in ended.err


@pytest.mark.long
def test_killed_it_ends_with_the_same_bytes(files, tmp_path):
    words = [f"--teacher={files}/test_vit.safetensors", "--student=test_resnet", *SMALL, "--save_minutes=0.0001"]
    assert run(*words, f"--out={tmp_path / 'whole'}", f"--cache={tmp_path / 'a'}", logs=tmp_path / "l", module=MODULE).code == 0
    job = start(*words, f"--out={tmp_path / 'cut'}", f"--cache={tmp_path / 'b'}", logs=tmp_path / "m", module=MODULE)
    job.until(tmp_path / "cut" / "metrics.jsonl", rows=3)
    job.send(9)
    job.wait()
    assert run(*words, f"--out={tmp_path / 'cut'}", f"--cache={tmp_path / 'b'}", logs=tmp_path / "l", module=MODULE).code == 0
    one, two = ((tmp_path / p / "encoder.safetensors").read_bytes() for p in ("whole", "cut"))
    assert one == two
