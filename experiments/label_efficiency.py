"""Is pretraining worth labels? The default encoder pretrained without labels against the same one from scratch, by labels.

    uv run python -m experiments.label_efficiency --seeds 0 1 2

For each seed: `ssl.pretrain --method simclr` on Fashion-MNIST's training images without labels, then `linear_eval.finetune`
on 1, 10 and 100 % of the labels, from that encoder and from scratch, each with the learning rate that was best on validation
with 10 % of seed 0's labels; and `linear_eval.evaluate`'s logistic regression on the frozen features. The test split is
looked at once a run, with the last weights. A seed draws its own validation images, labels, weights and crops. Runs that are
done are not run again, so several of these commands may share the work. Results: experiments/label_efficiency/*.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

from core import checkpoint
from core.machine import code, hardware, versions
from experiments.first_run import spread
from linear_eval.names import renamed

HERE = Path(__file__).resolve().parent
DATA, METHOD = "fashion_mnist", "simclr"
STEPS = {0.01: 500, 0.1: 1000, 1.0: 1716}  # of 128 images: 116, 23 and 4 epochs
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
CHOSEN_AT = 0.1  # share of the labels at which a learning rate is chosen, on validation
ARMS = {"pretrained, fine-tuned": "pretrained", "from scratch": "scratch"}
FROZEN = "pretrained, frozen: logistic regression"
COLOURS = {"pretrained, fine-tuned": "#0072B2", FROZEN: "#009E73", "from scratch": "#D55E00"}
PACKAGES = ("torch", "torchvision", "timm", "scikit-learn")
SCORES = ("knn", "logistic", "five_labels")


def tool(module: str, *words: str) -> None:
    subprocess.run([sys.executable, "-m", module, *words], check=True, cwd=HERE.parent, stdout=subprocess.DEVNULL)


def pretrained(runs: Path, seed: int) -> Path:
    out = runs / f"pretrain-{seed}"
    if not (out / "test.json").exists():
        tool("ssl.pretrain", "--method", METHOD, "--data", DATA, "--seed", str(seed), "--out", str(out))
    return out / "encoder.safetensors"


def finetuned(runs: Path, arm: str, share: float, rate: float, seed: int) -> dict:
    """The row of results.json of one run."""
    out = runs / f"{arm}-{share:g}-{rate:g}-{seed}"
    if not (out / "results.json").exists():
        words = ["--encoder", str(pretrained(runs, seed)), "--data", DATA, "--scratch", str(arm == "scratch").lower()]
        words += ["--labels", str(share), "--steps", str(STEPS[share]), "--batch_size", "128", "--seed", str(seed)]
        words += ["--optim.lr", str(rate), "--optim.scaling", "none", "--augment.crop", "[0.6,1.0]", "--checks", "2"]
        words += ["--gradcam", "0"]
        tool("linear_eval.finetune", *words, "--out", str(out))
    return json.loads((out / "results.json").read_text())["rows"][0]


def best_rate(runs: Path, arm: str) -> tuple[float, dict[str, float]]:
    """The learning rate that is best on validation, and each one's accuracy there."""
    scores = {rate: finetuned(runs, arm, CHOSEN_AT, rate, 0)["validation"] for rate in RATES}
    return max(scores, key=scores.get), {f"{rate:g}": round(score, 2) for rate, score in scores.items()}


def frozen(runs: Path, seed: int) -> dict[float, float]:
    """Share of the labels → accuracy of logistic regression on frozen features."""
    out = runs / f"frozen-{seed}"
    if not (out / "results.json").exists():
        words = ["--encoder", str(pretrained(runs, seed)), "--data", DATA, "--seed", str(seed), "--picture", "false"]
        tool("linear_eval.evaluate", *words, "--parts", "[logistic,labels]", "--out", str(out))
    rows = json.loads((out / "results.json").read_text())["rows"]
    return {float(r["labels"].split()[0]) / 100: r["accuracy"] for r in rows if r["source"] == "encoder"}


def measured(runs: Path, seeds: list[int]) -> dict:
    """Arm → share → test accuracy: mean and standard deviation over seeds, and each one's; and ssl.pretrain's own scores."""
    rates = {arm: best_rate(runs, short) for arm, short in ARMS.items()}
    values = {(FROZEN, share): [] for share in STEPS}
    for seed in seeds:
        for share in STEPS:
            for arm, short in ARMS.items():
                row = finetuned(runs, short, share, rates[arm][0], seed)
                values.setdefault((arm, share), []).append(round(row["accuracy"], 2))
        for share, accuracy in frozen(runs, seed).items():
            values[FROZEN, share].append(round(accuracy, 2))
    arms = {}
    for arm in COLOURS:
        arms[arm] = {f"{share:g}": spread(values[arm, share]) | {"each": values[arm, share]} for share in STEPS}
    chosen = {arm: {"chosen": rate, "validation": scores} for arm, (rate, scores) in rates.items()}
    tests = [json.loads((pretrained(runs, seed).parent / "test.json").read_text()) for seed in seeds]
    pretraining = {score: spread([test["pretrained"][score] for test in map(renamed, tests)]) for score in SCORES}
    return {"accuracy": arms, "rates": chosen, "pretraining": pretraining}


def table(document: dict) -> str:
    machine, arms = document["hardware"], document["accuracy"]
    lines = [
        f"# Label efficiency on {DATA}",
        "",
        f"Test accuracy in %, mean ± std over seeds {', '.join(map(str, document['seeds']))}. `{document['command']}`; "
        f"{machine['cpu']}; torch {document['versions']['torch']}; code {document['code']}. The encoder is ssl.pretrain's "
        "default.",
        "",
        "| labels | images | " + " | ".join(arms) + " |",
        "|---" * (len(arms) + 2) + "|",
    ]
    for share in STEPS:
        cells = [f"{a[f'{share:g}']['mean']:.1f} ± {a[f'{share:g}']['std']:.1f}" for a in arms.values()]
        lines.append(f"| {100 * share:g} % | {55_000 * share:,.0f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def chart(document: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for arm, colour in COLOURS.items():
        points = [document["accuracy"][arm][f"{share:g}"] for share in STEPS]
        means, stds = ([p[key] for p in points] for key in ("mean", "std"))
        axis.errorbar([100 * share for share in STEPS], means, stds, fmt="o-", ms=5, capsize=3, color=colour, label=arm)
    axis.set_xscale("log")
    axis.set_xticks([100 * share for share in STEPS], [f"{100 * share:g} %\n{55_000 * share:,.0f}" for share in STEPS])
    axis.minorticks_off()
    axis.set(xlabel="labels: share and images", ylabel=f"test accuracy on {DATA}, %")
    axis.legend(fontsize=8, loc="lower right")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", action="store_true", help="run these seeds, and leave the table to another command")
    parser.add_argument("--kept", type=Path, default=HERE / "label_efficiency")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "label_efficiency")
    given = parser.parse_args()
    document = {
        "data": DATA,
        "command": "uv run python -m experiments.label_efficiency --seeds " + " ".join(map(str, given.seeds)),
        "code": code(),
        "hardware": hardware(),
        "versions": versions(PACKAGES),
        "seeds": given.seeds,
        **measured(given.runs.resolve(), given.seeds),
    }
    if given.only:
        return 0
    given.kept.mkdir(parents=True, exist_ok=True)
    checkpoint.write(given.kept / f"{DATA}.json", json.dumps(document, indent=1) + "\n")
    checkpoint.write(given.kept / f"{DATA}.md", table(document))
    chart(document, given.kept / f"{DATA}.png")
    print(table(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
