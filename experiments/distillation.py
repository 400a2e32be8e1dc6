"""Is a small student worth more after a teacher?  Fashion-MNIST; teacher: ssl.pretrain's default encoder, pretrained here.

    uv run python -m experiments.distillation --teacher runs/simclr-fashion_mnist/encoder.safetensors
    uv run python -m experiments.distillation --teacher runs/simclr-fashion_mnist/encoder.safetensors --long --parallel 8

Without labels: SEED against SimCLR alone, the same student, the same epochs, logistic regression on frozen features. With
labels: KD, DKD and CRD after the fine-tuned teacher against the same student from scratch, the same epochs. Last weights, test
looked at once. What is done is not run again. Kept in experiments/distillation/fashion_mnist.json.

--long: with labels alone, eight epochs of the students and ten of the teacher, as CRD's memory needs time to fill and its
teacher something to teach. CRD with a weight of .2 (of .05, .2 and .8, chosen on validation images: seed 0, 5 epochs), alone
and beside KD as in the paper. Kept in experiments/distillation/long.json.
"""
import argparse
import json
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from core import checkpoint
from core.machine import certificate

KEPT = Path(__file__).resolve().parent / "distillation"
RUNS = Path("runs") / "distillation"
STUDENT = "tiny"
WITH_LABELS = {"KD": ["--method=kd"], "DKD": ["--method=dkd"], "CRD": ["--method=crd"]}
CRD = ["--method=crd", "--method.weight=0.2"]
LONG = {"KD": WITH_LABELS["KD"], "CRD": CRD, "CRD+KD": [*CRD, "--method.kd=1"]}
LONG_EPOCHS, TEACHERS_LONG_EPOCHS = 8, 10
SGD = ("--optim.name=sgd", "--optim.lr=0.2", "--optim.weight_decay=5e-4")  # the distillation methods' own
QUEUE = "--method.queue_size=8192"  # 27,392, what the default comes to here, takes half as long again
VIEWS = ("--augment.crop=[0.6,1.0]", "--augment.solarize=0.3")  # ssl/recipe/fashion_mnist.yaml's


places = threading.Semaphore()  # for commands at once


def together(jobs: Sequence[Callable[[], object]]) -> list:
    """All at once, as far as `places` lets their commands."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def command(module: str, out: Path, seed: int, epochs: float, *words: str) -> Path:
    """Run a tool, or find it done (its results are there).  → its folder"""
    said = ["--data=fashion_mnist", f"--seed={seed}", f"--epochs={epochs:g}", f"--out={out}", *words]
    if not (out / "encoder.safetensors").exists() or not ((out / "results.json").exists() or (out / "test.json").exists()):
        with places:
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


def with_labels(
    teacher: str, seed: int, epochs: float, teachers_epochs: float, methods: dict[str, list[str]], tag: str = ""
) -> dict[str, float]:
    """Test accuracy of classifiers: teacher, student from scratch, student after the teacher by each method.

    methods: name → its words.  tag: of the folders of runs
    """
    tool, found = "linear_eval.finetune", {}
    tuned, scratch = together([
        partial(command, tool, RUNS / f"{name}{tag}-{seed}", seed, length, f"--encoder={encoder}", "--checks=1", *SGD)
        for name, length, encoder in (("teacher", teachers_epochs, teacher), ("scratch", epochs, STUDENT))
    ])
    words = (
        f"--teacher={tuned / 'classifier.safetensors'}", f"--student={STUDENT}",
        f"--beside={scratch / 'classifier.safetensors'}",
    )
    folders = together([
        partial(command, "distill.train", RUNS / f"{method.lower()}{tag}-{seed}", seed, epochs, *words, *more)
        for method, more in methods.items()
    ])
    for method, folder in zip(methods, folders, strict=True):
        labels = {"teacher": "teacher", "student": method, "beside": "from scratch"}
        for name, row in rows(folder).items():
            if name.split(":")[0] in labels:
                found[f"{labels[name.split(':')[0]]}, classifier"] = row["classifier"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True, help="an encoder.safetensors that was pretrained on Fashion-MNIST")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="without labels")
    parser.add_argument("--labelled_seeds", type=int, nargs="*", default=[0, 1, 2], help="with labels")
    parser.add_argument("--epochs", type=float, help=f"of the student, alone and distilled; 5, or {LONG_EPOCHS} with --long")
    parser.add_argument("--teachers_epochs", type=float, help=f"of the teacher's fine-tuning; 4, or {TEACHERS_LONG_EPOCHS} with --long")
    parser.add_argument("--long", action="store_true", help="longer, and with labels alone")
    parser.add_argument("--parallel", type=int, default=1, help="commands at once")
    given = parser.parse_args()
    if given.long:
        given.seeds = []
    given.epochs = given.epochs or (LONG_EPOCHS if given.long else 5)
    given.teachers_epochs = given.teachers_epochs or (TEACHERS_LONG_EPOCHS if given.long else 4)
    for _ in range(given.parallel - 1):
        places.release()
    labelled = partial(with_labels, given.teacher, epochs=given.epochs, teachers_epochs=given.teachers_epochs)
    methods, tag = (LONG, "-long") if given.long else (WITH_LABELS, "")
    jobs = [partial(without_labels, given.teacher, seed, given.epochs) for seed in given.seeds]
    jobs += [partial(labelled, seed, methods=methods, tag=tag) for seed in given.labelled_seeds]
    each: dict[str, list[float]] = {}
    for found in together(jobs):
        for name, value in found.items():
            each.setdefault(name, []).append(value)
    kept = {
        "student": STUDENT, "words": methods, **vars(given), "accuracy": each,
        "mean": {name: round(statistics.mean(values), 2) for name, values in each.items()},
        "std": {name: round(statistics.stdev(values), 2) for name, values in each.items() if len(values) > 1},
        **certificate(given.labelled_seeds),
    }
    checkpoint.write(KEPT / ("long.json" if given.long else "fashion_mnist.json"), json.dumps(kept, indent=1) + "\n")
    print(json.dumps({name: [round(v, 2) for v in values] for name, values in each.items()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
