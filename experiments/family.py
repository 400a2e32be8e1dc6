"""All methods under one budget: same data, encoder, steps, batch and augmentation, each with its shipped recipe.

    uv run python -m experiments.family --seeds 0 1

Runs `ssl.pretrain --recipe experiments/recipes/DATA/METHOD.yaml` for every recipe of the data set and every seed. Each
cell (scores, health, cost, hardware, versions) is written beside its run as it ends, so several of these commands may share
the work; then what there is becomes experiments/family/DATA.json, .md and .png. A cell is run again when its recipe's
configuration has changed. Cells of several machines or versions do not share a table.
"""
import argparse
import json
import shutil
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

from core import checkpoint, cli, identity
from core.machine import code, hardware, versions
from experiments.first_run import pretrain, spread
from linear_eval import knn, probe
from linear_eval.names import renamed

HERE = Path(__file__).resolve().parent
KEPT = HERE / "family"
SCORES = {"logistic": "logistic", "knn": "kNN", "five_labels": "5 labels a class"}
BASELINES = ("raw pixels", "untrained")
PROTOCOL = f"kNN k = {knn.K}; logistic regression C = 1, at most {probe.ITERATIONS} iterations"
COMPUTING = ("python", "torch", "torchvision", "timm")  # packages whose versions the figures may depend on
SAME = ("hardware", "versions", "protocol")


@cache
def fingerprint(recipe: Path) -> str:
    """Of the whole configuration that the recipe makes."""
    from ssl.pretrain import TOOL

    words, _ = cli.parse(["--recipe", str(recipe)])
    words, _ = cli.with_recipe(TOOL, words)
    return identity.fingerprint(identity.identity(cli.compose(TOOL, words)))


def cell(recipe: Path, seed: int, out: Path) -> dict:
    """One method with one seed, as a user would run it. A run that fails is a cell that says so."""
    shutil.rmtree(out, ignore_errors=True)
    words = ["--recipe", str(recipe), "--checks", "4", "--seed", str(seed)]
    done = {"method": recipe.stem, "seed": seed, "fingerprint": fingerprint(recipe), "protocol": PROTOCOL}
    done |= {"hardware": hardware(), "versions": {name: v for name, v in versions().items() if name in COMPUTING}}
    try:
        done |= pretrain(words, out)
        done["verdict"] = (out / "report.md").read_text().split("Health: ")[1].splitlines()[0].split(":")[0].split(" (")[0]
    except subprocess.CalledProcessError as error:
        done["failed"] = f"exit code {error.returncode}"
    checkpoint.write(out / "cell.json", (json.dumps(done, indent=1) + "\n").encode())
    return done


def summary(cells: list[dict]) -> dict[str, dict]:
    """Row → scores' mean and standard deviation over seeds, and the cost. The untrained encoder and pixels come first."""
    ended = [c for c in cells if "failed" not in c]
    rows = {}
    for name in BASELINES:  # the same for every method of a seed
        seeds = {c["seed"]: c["test"][name] for c in ended}
        rows[name] = {score: spread([f[score] for f in seeds.values()]) for score in SCORES}
    for method in sorted({c["method"] for c in ended}):
        mine = [c for c in ended if c["method"] == method]
        rows[method] = {score: spread([c["test"]["pretrained"][score] for c in mine]) for score in SCORES}
        rows[method] |= {"seeds": len(mine), "cpu_minutes": round(statistics.mean(c["cpu_minutes"] for c in mine), 1)}
        rows[method]["rankme"] = round(statistics.mean(c["health"]["rankme"] for c in mine))
        rows[method]["verdict"] = ", ".join(sorted({c["verdict"] for c in mine}))
    return rows


def table(document: dict) -> str:
    """Markdown, best logistic regression first, the baselines last."""
    rows = document["summary"]
    methods = sorted(set(rows) - set(BASELINES), key=lambda name: -rows[name]["logistic"]["mean"])
    machine = document["hardware"]
    lines = [
        f"# The family on {document['data']}",
        "",
        f"Test accuracy in %, frozen features, mean ± std over seeds. `{document['command']}`; {machine['cpu']}, "
        f"{machine['cores']} core(s) a run; torch {document['versions']['torch']}; {document['protocol']}. Every method: "
        f"{document['steps']} steps.",
        "",
        f"| method | {' | '.join(SCORES.values())} | effective rank | CPU minutes | verdict | seeds |",
        "|---" * (len(SCORES) + 5) + "|",
    ]
    for name in [*methods, *BASELINES]:
        f = rows[name]
        cells = [f"{f[score]['mean']:.1f}" + (f" ± {f[score]['std']:.1f}" if f[score]["std"] else "") for score in SCORES]
        rest = [f["rankme"], f["cpu_minutes"], f["verdict"], f["seeds"]] if name in methods else [""] * 4
        label = f"{name} (uses labels)" if name == "supcon" else name
        lines.append(f"| {label} | {' | '.join(cells)} | {' | '.join(map(str, rest))} |")
    lines += ["", *(f"Failed: {what} ({why})." for what, why in document["failed"].items())] if document["failed"] else []
    return "\n".join(lines) + "\n"


def chart(document: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = document["summary"]
    methods = sorted(set(rows) - set(BASELINES), key=lambda name: rows[name]["logistic"]["mean"])
    figure, axis = plt.subplots(figsize=(7.5, 0.32 * len(methods) + 1.2), layout="constrained")
    for score, colour, shift in (("logistic", "#0072B2", 0.12), ("knn", "#D55E00", -0.12)):
        means, stds = ([rows[m][score][k] for m in methods] for k in ("mean", "std"))
        places = [i + shift for i in range(len(methods))]
        axis.errorbar(means, places, xerr=stds, fmt="o", ms=5, color=colour, capsize=3, label=SCORES[score])
        for name, style in (("raw pixels", ":"), ("untrained", "--")):
            axis.axvline(rows[name][score]["mean"], color=colour, ls=style, lw=1, label=f"{SCORES[score]} of {name}")
    axis.set_yticks(range(len(methods)), [f"{m} (labels)" if m == "supcon" else m for m in methods])
    axis.set_xlabel(f"test accuracy on {document['data']}, %")
    axis.legend(fontsize=7, loc="lower right")
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist", help="a folder of experiments/recipes")
    parser.add_argument("--methods", nargs="+", help="default: every recipe of the data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "family", help="where runs and their cells lie")
    given = parser.parse_args()
    recipes = {path.stem: path for path in sorted((HERE / "recipes" / given.data).glob("*.yaml"))}
    if unknown := sorted(set(given.methods or ()) - set(recipes)):
        parser.error(f"--methods {' '.join(unknown)}: {given.data} has recipes for {', '.join(recipes) or 'none'}")

    for seed in given.seeds:
        for method in given.methods or recipes:
            known = {(c["method"], c["seed"]) for c in gathered(given, recipes)}
            if (method, seed) not in known:
                cell(recipes[method], seed, given.runs / given.data / f"{method}-{seed}")
    if not (cells := gathered(given, recipes)):
        print("nothing was run", file=sys.stderr)
        return 1
    print(table(keep(given.kept / f"{given.data}.json", given.data, cells)))
    return 0


def gathered(given: argparse.Namespace, recipes: dict[str, Path]) -> list[dict]:
    """Cells of today's recipes: those kept in the repository, and those beside runs here, which win."""
    path = given.kept / f"{given.data}.json"
    cells = renamed(json.loads(path.read_text())["cells"]) if path.exists() else []
    cells += [renamed(json.loads(path.read_text())) for path in sorted((given.runs / given.data).glob("*/cell.json"))]
    current = {method: fingerprint(recipe) for method, recipe in recipes.items()}
    fresh = [c for c in cells if c["fingerprint"] == current.get(c["method"]) and c["protocol"] == PROTOCOL]
    newest = {(c["method"], c["seed"]): c for c in fresh}
    return [newest[key] for key in sorted(newest)]


def keep(path: Path, data: str, cells: list[dict]) -> dict:
    """Write JSON, table and chart.  Raises ValueError where cells of several machines, versions or budgets meet."""
    for key in (*SAME, "steps"):
        values = {json.dumps(c[key], sort_keys=True) for c in cells if key in c}
        if len(values) > 1:
            raise ValueError(f"cells differ in {key}: {' and '.join(sorted(values))}; remove some and run them again")
    seeds = sorted({c["seed"] for c in cells})
    document = {
        "data": data,
        "command": f"uv run python -m experiments.family --data {data} --seeds " + " ".join(map(str, seeds)),
        "code": code(),
        "seeds": seeds,
        **{key: cells[0][key] for key in SAME},
        "steps": next(c["steps"] for c in cells if "steps" in c),
        "summary": summary(cells),
        "failed": {f"{c['method']}, seed {c['seed']}": c["failed"] for c in cells if "failed" in c},
        "cells": cells,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(document))
    chart(document, path.with_suffix(".png"))
    return document


if __name__ == "__main__":
    sys.exit(main())
