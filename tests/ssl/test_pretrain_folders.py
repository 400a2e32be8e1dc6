"""People's own folders: broken files among them, no labels, grey, and an encoder handed on from run to run."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from PIL import Image
from safetensors import safe_open

STEPS = ["--steps=4", "--evals=1", "--log_every=1", "--encoder=test_resnet", "--image_size=16", "--batch_size=16"]
STEPS += ["--method.hidden=16", "--method.dim=8", "--data=folder"]


def photo(path: Path, seed: int, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*rng.integers(17, 40, 2), 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def broken(path: Path, kind: int) -> Path:
    whole = photo(path, kind).read_bytes()
    path.write_bytes([b"", b"no image", whole[: len(whole) // 2], whole[:20], b"\x00" * 200][kind % 5])
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)


@pytest.fixture(scope="module")
def hundred(tmp_path_factory) -> tuple[Path, set[str]]:
    """100 files in two classes, of which 10 are broken in five ways.  → the folder, the names of the ten."""
    root = tmp_path_factory.mktemp("photos") / "a b=c"
    for i in range(90):
        photo(root / ("cats", "dogs")[i % 2] / f"{i:03}.{('png', 'jpg', 'webp')[i % 3]}", i)
    return root, {str(broken(root / ("cats", "dogs")[i % 2] / f"bad{i}.png", i)) for i in range(10)}


def test_ten_broken_files_of_a_hundred_are_named_and_left_out(tmp_path, hundred):
    root, ten = hundred
    ended = run(*STEPS, "--data.root", root, "--out", tmp_path / "run", logs=tmp_path / "logs")
    assert ended.code == 0, ended.err
    listed = dict(line.split("\t") for line in (tmp_path / "run" / "skipped.txt").read_text().splitlines())
    assert listed.keys() == ten
    assert all(listed.values()), "each with its reason"
    assert "note: 10 items are left out (" in ended.err
    assert "skipped.txt" in ended.err
    assert "kNN" in ended.out


def test_a_flat_folder_without_labels(tmp_path):
    """Grey PNGs: it trains, on a grey ViT's colours too, and says that there is no accuracy to report."""
    for i in range(40):
        photo(tmp_path / "photos" / f"{i}.png", i, "L")
    where = ["--data.root", tmp_path / "photos", "--encoder=test_vit", "--image_size=32", "--out", tmp_path / "run"]
    ended = run(*STEPS, *where, logs=tmp_path / "logs")
    assert ended.code == 0, ended.err
    report = (tmp_path / "run" / "report.md").read_text()
    assert "kNN" not in report, "no figure that needs labels"
    assert "no accuracy" in ended.out
    assert "no accuracy" in report
    assert not any("knn" in json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert not (tmp_path / "run" / "skipped.txt").exists()


@pytest.mark.long
def test_an_encoder_goes_on_where_another_run_left_it(tmp_path, hundred):
    """At a learning rate of almost nothing, the second run's weights are the first one's: it did start from them."""
    root, _ = hundred
    ended = run(*STEPS, "--data.root", root, "--out", tmp_path / "first", logs=tmp_path / "logs")
    assert ended.code == 0, ended.err
    first = tmp_path / "first" / "encoder.safetensors"
    words = [*STEPS, "--data.root", root, "--optim.lr=1e-12", "--method=moco_v3"]
    ended = run(*words, "--encoder", first, "--out", tmp_path / "second", logs=tmp_path / "logs")
    assert ended.code == 0, ended.err
    before, after = weights(first), weights(tmp_path / "second" / "encoder.safetensors")
    assert before.keys() == after.keys()
    learnt = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.allclose(before[name], after[name], atol=1e-9, rtol=1e-6) for name in learnt)
    fresh = run(*words, "--out", tmp_path / "third", logs=tmp_path / "logs")
    assert fresh.code == 0
    third = weights(tmp_path / "third" / "encoder.safetensors")
    assert not torch.allclose(before["conv1.0.weight"], third["conv1.0.weight"], atol=1e-3)
