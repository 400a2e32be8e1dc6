"""Is the encoder that a search found better than the hand-made one?  Both trained from scratch with fresh seeds.

    uv run python -m nas.search --study fashion --data fashion_mnist --space experiments/search.py:space --objectives linear \\
        --limit macs:15.1 --trials 32 --epochs 3 --rungs 2 --parallel 2
    uv run python -m experiments.search --study fashion --seeds 11 12 13

Takes the study's best (by validation images: searches look at no others), and the default encoder `small`; trains both by
ssl.pretrain's own command with random weights of each seed, and keeps test accuracy, costs and the study's own table in
experiments/search/DATA.json, its picture beside it. A run that is done is not run again.
"""
import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from core import checkpoint
from core.machine import code, hardware, versions
from nas.ledger import folder
from vision import artifact, cost, encoders


# The default's own family: every network here is a ResNet-D of basic blocks, and the default is one of them. Two wider searches
# (40 and 8 trials, one seed) found encoders that equal it by kNN and lose two points by the linear probe: bottlenecks,
# squeeze-and-excitation, 5×5 kernels, SiLU and narrow ends did not pay at this budget.
def space(trial, channels: int, size: int) -> encoders.Spec:
    widths = [[16, 24, 32, 40], [32, 48, 64, 80], [64, 96, 128, 160], [128, 192, 256, 320, 384, 512]]
    arguments = {
        "layers": tuple(trial.suggest_int(f"depth{i}", 1, 2) for i in range(4)),
        "channels": tuple(trial.suggest_categorical(f"width{i}", of) for i, of in enumerate(widths)),
        "stem_width": trial.suggest_categorical("stem_width", [8, 16, 24]),
    }
    return encoders.Spec("resnet18d", channels, size, trial.suggest_categorical("stem", ["half", "small"]), arguments)


KEPT = Path(__file__).resolve().parent / "search"
RUNS = Path("runs") / "search"


def trained(name: str, encoder: str, data: str, seed: int, epochs: float) -> dict[str, float]:
    """Test accuracy in per cent after pretraining from random weights.  encoder: a name, or a file of that architecture"""
    out = RUNS / f"{name}-{seed}"
    if not (out / "test.json").exists():
        words = [f"--data={data}", f"--seed={seed}", f"--epochs={epochs:g}", f"--encoder={encoder}", "--scratch"]
        words.append(f"--out={out}")
        print(f"ssl.pretrain {' '.join(words)}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "ssl.pretrain", *words], check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "test.json").read_text())["pretrained"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", required=True, help="a finished one, in runs/nas")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--against", default="small", help="the encoder to beat")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13], help="none of them the search's")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--minutes", type=float, help="what the search took, as its user's clock says")
    given = parser.parse_args()
    study = json.loads((folder(given.study) / "results.json").read_text())
    best = study["front"][0]
    found = next(t for t in study["trials"] if t["number"] == best)
    named = {"found": str(folder(given.study) / "encoder.safetensors"), given.against: given.against}
    rows = {}
    for name, file in named.items():
        scores = [trained(name, file, given.data, seed, given.epochs) for seed in given.seeds]
        encoder, _ = artifact.load(RUNS / f"{name}-{given.seeds[0]}" / "encoder.safetensors")
        rows[name] = {
            "encoder": encoder.spec.json, "macs": cost.macs(encoder), "parameters": cost.parameters(encoder), "test": scores,
            "mean": {kind: round(statistics.mean(s[kind] for s in scores), 2) for kind in scores[0]},
            "std": {kind: round(statistics.stdev(s[kind] for s in scores), 2) for kind in scores[0]},
        }
    kept = {
        **vars(given), "trial": found, "rows": rows, "study": {key: study[key] for key in ("settings", "trials", "epochs")},
        "hardware": hardware(), "versions": versions(), "code": code(),
    }
    KEPT.mkdir(exist_ok=True)
    checkpoint.write(KEPT / f"{given.data}.json", json.dumps(kept, indent=1) + "\n")
    shutil.copy2(folder(given.study) / "front.png", KEPT / f"{given.data}.png")
    print(json.dumps({name: {**row["mean"], "macs": row["macs"]} for name, row in rows.items()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
