"""Does CRD alone beat training from scratch? A small measurement, for a machine with little time.

    uv run python -m experiments.crd
    uv run python -m experiments.crd --teacher small --teachers_images 12000 --teachers_epochs 3 --runs runs/crd_small

On the first 3,000 training and 4,000 test images of Fashion-MNIST: `tiny` from scratch, after a teacher by CRD with the
authors' gradient (method.positives=memory) and with the earlier one (batch), and by KD, which is known to help. The teacher is
another `tiny` that saw all training images with labels: clearly better than its students, and cheap. The second command's is
hardly better. Nothing is chosen on test images. Every run resumes; finished runs are kept; the JSON is written again after each
run, with the seeds that are finished; a teacher's case replaces that of the same teacher.
"""
import argparse
import gzip
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from core import checkpoint
from core.machine import certificate
from vision.small_sets import DEBIAN_FASHION_MNIST

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "experiments" / "distillation" / "crd_small.json"
SEEDS = (1, 2, 3)
IMAGES, TEST_IMAGES, EPOCHS, BATCH = 3_000, 4_000, 10, 128
STUDENTS = {  # name: the method's settings; empty: from scratch. Beside each other at equal weight first
    "from scratch": {},
    "CRD .8, memory": {"method": "crd", "method.weight": 0.8, "method.positives": "memory"},
    "CRD .8, batch": {"method": "crd", "method.weight": 0.8, "method.positives": "batch"},
    "KD": {"method": "kd"},
    "CRD .2, memory": {"method": "crd", "method.weight": 0.2, "method.positives": "memory"},
    "CRD .2, batch": {"method": "crd", "method.weight": 0.2, "method.positives": "batch"},
}
ROUNDS = (("from scratch", "CRD .8, memory", "CRD .8, batch"), ("KD",), ("CRD .2, memory", "CRD .2, batch"))
SHARED = {"data": "fashion_mnist", "batch_size": BATCH, "checks": 1, "workers": 0, "trackers": "none"}
OPTIMIZER = {"optim.name": "sgd", "optim.lr": 0.2, "optim.weight_decay": 5e-4}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=DEBIAN_FASHION_MNIST, help="folder of Fashion-MNIST's four .gz files")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "crd", help="folder of the runs")
    parser.add_argument("--teacher", default="tiny", help="the teacher's architecture")
    parser.add_argument("--teachers_images", type=int, default=60_000, help="training images that it sees, the first ones")
    parser.add_argument("--teachers_epochs", type=float, default=2)
    given = parser.parse_args(argv)
    data, teachers_data = (reduced(given.source, given.runs / f"data-{n}", n) for n in (IMAGES, given.teachers_images))
    teacher = given.runs / "teacher"
    classifier(given.teacher, teachers_data, given.teachers_epochs, 0, teacher)
    case = f"{given.teacher}, {given.teachers_images} images, {given.teachers_epochs:g} epochs"
    found = {name: {} for name in STUDENTS}
    for group in ROUNDS:
        for seed in SEEDS:
            for name in group:
                out = given.runs / f"{''.join(c for c in name if c.isalnum())}-{seed}"
                found[name][seed] = student(STUDENTS[name], seed, teacher, data, out)
                write(case, found, accuracy(teacher / "results.json", "rows.0.accuracy"))
                print(f"{name}, seed {seed}: {found[name][seed]:.2f} %", flush=True)
    return 0


def reduced(source: Path, folder: Path, images: int) -> Path:
    """Fashion-MNIST's files with their first images only."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", images), ("t10k", TEST_IMAGES)):
        for kind, header, row in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
            path = folder / f"{part}-{kind}-ubyte.gz"
            if path.exists():
                continue
            whole = gzip.decompress((source / path.name).read_bytes())
            sizes = np.frombuffer(whole[:header], ">i4").copy()
            sizes[1] = count
            checkpoint.write(path, gzip.compress(sizes.tobytes() + whole[header : header + count * row], mtime=0))
    return folder


def student(method: dict, seed: int, teacher: Path, data: Path, out: Path) -> float:
    """Test accuracy in % of the classifier's last weights."""
    if not method:
        classifier("tiny", data, EPOCHS, seed, out)
        return accuracy(out / "results.json", "rows.0.accuracy")
    settings = method | {"student": "tiny", "teacher": teacher / "classifier.safetensors", "cache": out.parent / "teachers"}
    tool("distill.train", out, settings | {"data.root": data, "epochs": EPOCHS, "seed": seed})
    return accuracy(out / "results.json", "rows.student.classifier")


def classifier(encoder: str, data: Path, epochs: float, seed: int, out: Path) -> None:
    settings = {"encoder": encoder, "data.root": data, "epochs": epochs, "seed": seed, "gradcam": 0, "method.smoothing": 0}
    tool("linear_eval.finetune", out, OPTIMIZER | settings)


def tool(module: str, out: Path, settings: dict) -> None:
    if (out / "results.json").exists():
        return
    words = [f"--{name}={value}" for name, value in (SHARED | settings).items()]
    command = [sys.executable, "-m", module, *words, f"--out={out}"]
    subprocess.run(command, check=True, cwd=ROOT)


def accuracy(path: Path, place: str) -> float:
    found = json.loads(path.read_text())
    for name in place.split("."):
        found = found[int(name)] if isinstance(found, list) else next(v for k, v in found.items() if k.startswith(name))
    return found


def write(case: str, found: dict[str, dict[int, float]], teacher: float) -> None:
    """The case of one teacher into the JSON.  found: name of a student → seed → accuracy."""
    measured = {name: values for name, values in found.items() if values}
    cases = json.loads(OUT.read_text())["cases"] if OUT.exists() else {}
    cases[case] = {
        "accuracy": {"teacher": [teacher]} | {name: list(values.values()) for name, values in measured.items()},
        "mean": {name: round(statistics.mean(v.values()), 2) for name, v in measured.items()},
        "std": {name: round(statistics.stdev(v.values()), 2) for name, v in measured.items() if len(v) > 1},
        "less_scratch": {  # of the same seed
            name: [round(v - found["from scratch"][seed], 2) for seed, v in values.items()]
            for name, values in measured.items() if name != "from scratch"
        },
    } | certificate(sorted({seed for values in measured.values() for seed in values}))
    fixed = {"student": "tiny", "images": IMAGES, "test_images": TEST_IMAGES, "epochs": EPOCHS, "batch_size": BATCH}
    checkpoint.write(OUT, json.dumps(fixed | {"settings": STUDENTS, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
