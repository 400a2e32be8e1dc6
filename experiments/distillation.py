"""Is a small student worth more after a teacher?  Fashion-MNIST; teacher: ssl.pretrain's default encoder, pretrained here.

    uv run python -m experiments.distillation --teacher runs/simclr-fashion_mnist/encoder.safetensors

Without labels: SEED against SimCLR alone, the same student, the same epochs, logistic regression on frozen features. With
labels: KD, DKD and CRD after the fine-tuned teacher against the same student from scratch, the same epochs. Last weights, test
looked at once. What is done is not run again. Kept in experiments/distillation/fashion_mnist.json. After a teacher that was
trained for longer, and with three seeds: the table fashion_mnist_distillation.
"""
import argparse
import json
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

from core import checkpoint
from core.machine import certificate

KEPT = Path(__file__).resolve().parent / "distillation"
RUNS = Path("runs") / "distillation"
STUDENT = "tiny"
WITH_LABELS = ("kd", "dkd", "crd")
SGD = ("--optim.name=sgd", "--optim.lr=0.2", "--optim.weight_decay=5e-4")  # the distillation methods' own
QUEUE = "--method.queue_size=8192"  # 27,392, what the default comes to here, takes half as long again
VIEWS = ("--augment.crop=[0.6,1.0]", "--augment.solarize=0.3")  # ssl/recipe/fashion_mnist.yaml's


def command(module: str, out: Path, seed: int, epochs: float, *words: str) -> Path:
    """Run a tool, or find it done (its results are there).  → its folder"""
    said = ["--data=fashion_mnist", f"--seed={seed}", f"--epochs={epochs:g}", f"--out={out}", *words]
    if not (out / "encoder.safetensors").exists() or not ((out / "results.json").exists() or (out / "test.json").exists()):
        print(f"{module} {' '.join(said)}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", module, *said], check=True, stdout=subprocess.DEVNULL)
    return out


def rows(folder: Path) -> dict[str, dict[str, float]]:
    return json.loads((folder / "results.json").read_text())["rows"]


def without_labels(teacher: str, seed: int, epochs: float) -> dict[str, float]:
    """Test accuracy of frozen features: teacher, student after it, student alone, student untrained."""
    alone = command("ssl.pretrain", RUNS / f"simclr-{seed}", seed, epochs, f"--encoder={STUDENT}")
    words = f"--teacher={teacher}", f"--student={STUDENT}", f"--beside={alone / 'encoder.safetensors'}"
    found = rows(command("distill.train", RUNS / f"seed-{seed}", seed, epochs, "--method=seed", QUEUE, *words, *VIEWS))
    labels = {"teacher": "teacher", "student": "SEED", "beside": "SimCLR alone", "untrained": "untrained"}
    named = {labels[name.split(":")[0]]: row for name, row in found.items()}
    return {f"{name}, {kind}": row[kind] for name, row in named.items() for kind in ("linear", "knn")}


def with_labels(teacher: str, seed: int, epochs: float, teachers_epochs: float) -> dict[str, float]:
    """Test accuracy of classifiers: teacher, student from scratch, student after the teacher by each method."""
    tool, found = "linear_eval.finetune", {}
    tuned = command(tool, RUNS / f"teacher-{seed}", seed, teachers_epochs, f"--encoder={teacher}", "--checks=1", *SGD)
    scratch = command(tool, RUNS / f"scratch-{seed}", seed, epochs, f"--encoder={STUDENT}", "--checks=1", *SGD)
    words = (
        f"--teacher={tuned / 'classifier.safetensors'}", f"--student={STUDENT}",
        f"--beside={scratch / 'classifier.safetensors'}",
    )
    for method in WITH_LABELS:
        folder = command("distill.train", RUNS / f"{method}-{seed}", seed, epochs, f"--method={method}", *words)
        labels = {"teacher": "teacher", "student": method.upper(), "beside": "from scratch"}
        for name, row in rows(folder).items():
            if name.split(":")[0] in labels:
                found[f"{labels[name.split(':')[0]]}, classifier"] = row["classifier"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True, help="an encoder.safetensors that was pretrained on Fashion-MNIST")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="without labels")
    parser.add_argument("--labelled_seeds", type=int, nargs="*", default=[0, 1, 2], help="with labels")
    parser.add_argument("--epochs", type=float, default=5, help="of the student, alone and distilled")
    parser.add_argument("--teachers_epochs", type=float, default=4, help="of the teacher's fine-tuning")
    given = parser.parse_args()
    each: dict[str, list[float]] = {}
    jobs = [partial(without_labels, given.teacher, seed, given.epochs) for seed in given.seeds]
    jobs += [partial(with_labels, given.teacher, seed, given.epochs, given.teachers_epochs) for seed in given.labelled_seeds]
    for job in jobs:
        for name, value in job().items():
            each.setdefault(name, []).append(value)
    kept = {
        "student": STUDENT, **vars(given), "accuracy": each,
        "mean": {name: round(statistics.mean(values), 2) for name, values in each.items()},
        "std": {name: round(statistics.stdev(values), 2) for name, values in each.items() if len(values) > 1},
        **certificate(given.labelled_seeds),
    }
    checkpoint.write(KEPT / "fashion_mnist.json", json.dumps(kept, indent=1) + "\n")
    print(json.dumps({name: [round(v, 2) for v in values] for name, values in each.items()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
