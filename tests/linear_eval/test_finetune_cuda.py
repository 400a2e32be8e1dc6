"""On a GPU: the features, the classifier and the whole command give what the CPU gives. Skipped without one."""
import json

import numpy as np
import pytest
import torch
from commands import real

from linear_eval.features import collect, of_encoder
from vision import encoders
from vision.splits import Images

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_features_are_those_of_the_cpu():
    torch.manual_seed(0)
    encoder = encoders.create("test_resnet", 1, 16).eval()
    split = Images(torch.randint(256, (600, 1, 16, 16), dtype=torch.uint8))
    mean, std = torch.tensor([0.3]), torch.tensor([0.4])
    devices = map(torch.device, ("cpu", "cuda"))
    cpu, cuda = (collect(of_encoder("x", encoder, mean, std, device), split, device) for device in devices)
    np.testing.assert_allclose(cuda.x, cpu.x, rtol=2e-2, atol=2e-3)  # TF32 has 11 bits, as float16


def test_the_whole_command(tmp_path):
    words = ["--encoder=small", "--data=digits", "--device=cuda", "--cache=none", "--picture=false"]
    words += [f"--out={tmp_path / 'run'}"]
    process = real(*words, module="linear_eval.evaluate")
    _, output = process.communicate(timeout=600)
    assert process.returncode == 0, output
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert next(r for r in rows if r["method"] == "finetune" and r["labels"] == "100 %")["accuracy"] > 90
