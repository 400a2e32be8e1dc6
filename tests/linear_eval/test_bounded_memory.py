"""Peak resident memory of an evaluation at 224 px does not grow with the number of images beyond their features."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import ROOT
from PIL import Image

from vision import artifact, encoders
from vision.augment import Augmentation

SIDE, FEW, FACTOR = 224, 150, 8
IMAGE = 3 * SIDE * SIDE  # bytes of a decoded image, of which a process must not hold all
NOISE = 100 * 2**20  # of the allocator, 15 to 90 MB in several runs; seven eighths of the images decoded are 158 MB

# Blocks of 32 images in place of 512, so that a few images are many blocks; a process a measurement, forked before torch has
# computed anything.
SCRIPT = """
import json, os, resource, sys
from core import cli
from linear_eval import evaluate, features, report, report_data, scoring
from linear_eval.dense import evaluate as dense, inputs, patch_features, report as dense_report, scoring as dense_scoring
from linear_eval.measures import leakage, parts

for module in (features, patch_features, leakage, parts):
    module.BLOCK = 32
inputs.BLOCK = 8 * 14 * 14  # patches that are scored at a time
tools = {"evaluate": (evaluate.TOOL, evaluate.evaluate), "dense": (dense.TOOL, dense.evaluate_dense)}
for name, words in json.loads(sys.argv[1]):
    if not (pid := os.fork()):
        tool, function = tools[name]
        function(cli.compose(tool, words))
        print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""
PARTS = "[knn,linear,labels,retrieval,few_shot,leakage]"
QUICK = ["protocol=v2", f"parts={PARTS}", "protocol.linear.epochs=2", "protocol.labels.draws=1",
         "protocol.few_shot.episodes=10", "maps=[pca]"]  # fmt: skip
DENSE = ["protocol.knn.bank=500", "protocol.linear.patches=500", "protocol.linear.C=[0.01]", "protocol.knn.k=[5]",
         "budget=0.004"]  # fmt: skip


def write_images(root, count: int) -> None:
    """The same images in a folder a class, and beside masks of two classes each."""
    rng = np.random.default_rng(0)
    for name in ("classes/a", "classes/b", "classes/c", "pairs/images", "pairs/masks"):
        (root / name).mkdir(parents=True)
    for i in range(count):
        label = i % 3
        small = Image.fromarray(rng.integers(0, 160, (14, 14, 3), np.uint8) + np.uint8(40 * label))
        image = small.resize((SIDE, SIDE))
        image.save(root / "classes" / "abc"[label] / f"{i:04}.jpg")
        image.save(root / "pairs" / "images" / f"{i:04}.jpg")
        mask = np.full((SIDE, SIDE), label, np.uint8)
        mask[:, : SIDE // 2] = (label + 1) % 3
        Image.fromarray(mask).save(root / "pairs" / "masks" / f"{i:04}.png")


def size_of(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.npy"))


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_peak_memory_grows_by_the_features_alone(tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "encoder.safetensors"
    recipe = Augmentation(SIDE, (0.5,) * 3, (0.25,) * 3)
    file.write_bytes(artifact.dumps(encoders.create("test_vit", 3, SIDE), recipe, {"tool": "a test"}))
    jobs, caches = [], []
    for count in (FEW, FACTOR * FEW):
        root = tmp_path / str(count)
        write_images(root, count)
        for tool, data, folder, quick in (
            ("evaluate", "folder", "classes", QUICK), ("dense", "segmentation_folder", "pairs", DENSE),
        ):
            caches.append(root / f"{tool}-cache")
            jobs.append([tool, [f"encoder={file}", f"data={data}", f"data.root={root / folder}", f"image_size={SIDE}",
                                f"cache={caches[-1]}", f"out={root / tool}", *quick]])  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    ended = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(jobs)], cwd=ROOT, env=environment, capture_output=True,
                           text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    peaks = [int(line.split()[1]) for line in ended.stdout.splitlines() if line.startswith("peak ")]
    assert len(peaks) == 4
    for tool, few, many in (("evaluate", 0, 2), ("dense", 1, 3)):
        features = size_of(caches[many]) - size_of(caches[few])
        grown = peaks[many] - peaks[few]
        assert grown < features + NOISE, (tool, peaks, features)
