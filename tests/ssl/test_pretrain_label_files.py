"""Labels in a CSV and groups, from pretraining to fine-tuning, on crops of scikit-image's photographs."""
import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image
from skimage import data

TINY = ["--data=folder", "--encoder=test_resnet", "--image_size=16", "--batch_size=16", "--workers=0"]


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Two photographs, ten parts of each, six crops of each part; every third crop is unlabelled."""
    root, rng, rows = tmp_path_factory.mktemp("slides"), np.random.default_rng(0), []
    for name in ("chelsea", "coffee"):
        picture = getattr(data, name)()
        for part in range(10):
            for i in range(6):
                y, x = rng.integers(0, picture.shape[0] - 32), 35 * part + rng.integers(0, 20)
                file = f"{name}-{part}-{i}.png"
                Image.fromarray(picture[y : y + 32, x : x + 32]).save(root / file)
                rows.append((file, name if i % 3 else "", f"{name} {part}"))
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "animal", "part"), *rows])
    return root


@pytest.mark.parametrize("method", ["supcon", "simclr"])
def test_some_images_are_labelled_in_a_csv(tmp_path, slides, method):
    given = ["--data.root", slides, "--data.labels=labels.csv:animal", "--data.group=part"]
    words = [f"--method={method}", "--steps=2", "--evals=1", "--method.hidden=16", "--method.dim=8"]
    ended = run(*TINY, *words, *given, "--out", tmp_path / "run", logs=tmp_path / "logs")
    assert ended.code == 0, ended.err
    assert "80 of 120 images labelled; 40 without a label, for pretraining alone (first: chelsea-0-0.png)" in ended.err
    assert "data.group=part: train" in ended.err
    count = int(ended.err.split(f"{method} on ")[1].split()[0])
    assert count <= 64 if method == "supcon" else count > 64  # of 16 parts: the labelled images, or all
    assert "--data.labels labels.csv:animal --data.group part" in ended.out  # of the commands to try next


@pytest.mark.parametrize("module", ["linear_eval.evaluate", "linear_eval.finetune"])
def test_labels_of_a_csv_are_evaluated_and_learnt(tmp_path, slides, module):
    if "evaluate" in module:
        words = [word for word in TINY if not word.startswith("--batch_size")] + ["--parts=[knn]", "--cache=none"]
    else:
        words = [*TINY, "--steps=2", "--evals=1"]
    given = ["--data.root", slides, "--data.labels=labels.csv:animal", r"--data.group=^\w+-\d+"]
    ended = run(*words, *given, "--out", tmp_path / "run", logs=tmp_path / "logs", module=module)
    assert ended.code == 0, ended.err
    assert "data.group=^\\w+-\\d+: train" in ended.err
    if "evaluate" in module:
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert results["data"]["classes"] == ["chelsea", "coffee"]
        assert sum(results["data"][split] for split in ("train", "validation", "test")) == 80
