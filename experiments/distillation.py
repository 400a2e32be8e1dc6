"""Is a small student worth more after a teacher?  Fashion-MNIST; teacher: ssl.pretrain's default encoder, pretrained here.

    uv run python -m experiments.distillation --teacher runs/simclr-fashion_mnist/encoder.safetensors

Without labels: SEED against SimCLR alone, the same student, the same epochs, logistic regression on frozen features. With
labels: KD, DKD and CRD after the fine-tuned teacher against the same student from scratch, the same epochs. Last weights, test
looked at once. What is done is not run again. Kept in experiments/distillation/fashion_mnist.json.
"""
import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from core import checkpoint
from core.machine import code, hardware, versions

KEPT = Path(__file__).resolve().parent / "distillation" / "fashion_mnist.json"
RUNS = Path("runs") / "distillation"
STUDENT = "mobilenetv3_small_050"
WITH_LABELS = ("kd", "dkd", "crd")
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


def one(teacher: str, seed: int, epochs: float, labelled_epochs: float) -> dict[str, float]:
    """Test accuracy of everything, for one seed."""
    found = {}
    alone = command("ssl.pretrain", RUNS / f"simclr-{seed}", seed, epochs, f"--encoder={STUDENT}")
    beside = alone / "encoder.safetensors"
    words = f"--teacher={teacher}", f"--student={STUDENT}", f"--beside={beside}"
    distilled = rows(command("distill.train", RUNS / f"seed-{seed}", seed, epochs, "--method=seed", *words, *VIEWS))
    for name, row in distilled.items():
        kind = name.split(":")[0]
        label = {"teacher": "teacher", "student": "SEED", "beside": "SimCLR alone", "untrained": "untrained"}[kind]
        found[f"{label}, linear"], found[f"{label}, kNN"] = row["linear"], row["knn"]
    if labelled_epochs:
        tuned = command("linear_eval.finetune", RUNS / f"teacher-{seed}", seed, 4, f"--encoder={teacher}", "--checks=1")
        scratch = command("linear_eval.finetune", RUNS / f"scratch-{seed}", seed, labelled_epochs, f"--encoder={STUDENT}",
                          "--checks=1")
        words = (f"--teacher={tuned / 'classifier.safetensors'}", f"--student={STUDENT}",
                 f"--beside={scratch / 'classifier.safetensors'}")
        for method in WITH_LABELS:
            folder = command("distill.train", RUNS / f"{method}-{seed}", seed, labelled_epochs, f"--method={method}", *words)
            for name, row in rows(folder).items():
                label = {"teacher": "teacher", "student": method.upper(), "beside": "from scratch"}.get(name.split(":")[0])
                if label:
                    found[f"{label}, classifier"] = row["classifier"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True, help="an encoder.safetensors that was pretrained on Fashion-MNIST")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=2, help="of the student without labels, alone and distilled")
    parser.add_argument("--labelled_epochs", type=float, default=3, help="of the student with labels; 0: leave them out")
    given = parser.parse_args()
    each: dict[str, list[float]] = {}
    for seed in given.seeds:
        for name, value in one(given.teacher, seed, given.epochs, given.labelled_epochs).items():
            each.setdefault(name, []).append(value)
        kept = {
            "command": f"python -m experiments.distillation --epochs {given.epochs:g} --labelled_epochs {given.labelled_epochs:g}",
            "student": STUDENT, "seeds": given.seeds[: len(each["SEED, linear"])], "accuracy": each,
            "mean": {name: round(statistics.mean(values), 2) for name, values in each.items()},
            "std": {name: round(statistics.stdev(values), 2) for name, values in each.items() if len(values) > 1},
            "hardware": hardware(), "versions": versions(), "code": code(),
        }
        checkpoint.write(KEPT, json.dumps(kept, indent=1) + "\n")
    print(json.dumps({name: [round(v, 2) for v in values] for name, values in each.items()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
