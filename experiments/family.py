"""All methods under one budget: same data, encoder, epochs, batch and augmentation, each with its shipped recipe.

    uv run python -m experiments.family --seeds 0 1

Runs `ssl.pretrain --recipe experiments/recipes/DATA/METHOD.yaml` for every recipe of the data set and every seed, and
keeps test scores, health and cost in experiments/family/DATA.json as they come; then table.md and chart.png are written
from it. What is there is not run again, unless the recipe's words have changed since.
"""
import argparse
import hashlib
import json
import shutil
import statistics
import sys
from pathlib import Path

from experiments.first_run import pretrain
from experiments.speed.side_by_side import hardware, versions

HERE = Path(__file__).resolve().parent
KEPT = HERE / "family"
SCORES = {"linear": "linear", "knn": "kNN", "five_labels": "5 labels a class"}
BASELINES = ("raw pixels", "untrained")


def fingerprint(recipe: Path) -> str:
    """Of what the recipe says, comments apart."""
    said = [line.split("#")[0].rstrip() for line in recipe.read_text().splitlines()]
    return hashlib.blake2b("\n".join(filter(None, said)).encode(), digest_size=6).hexdigest()


def cell(recipe: Path, seed: int, scratch: Path) -> dict:
    """One method with one seed, as a user would run it."""
    out = scratch / f"{recipe.stem}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    words = ["--recipe", str(recipe), "--checks", "4", "--seed", str(seed)]
    done = {"method": recipe.stem, "recipe": fingerprint(recipe), **pretrain(words, out)}
    return done | {"seed": seed, "verdict": (out / "report.md").read_text().split("Health: ")[1].splitlines()[0]}


def summary(cells: list[dict]) -> dict[str, dict]:
    """Method → scores' mean and standard deviation over seeds, and the cost. The untrained encoder and pixels come first."""
    rows = {}
    for name in BASELINES:
        rows[name] = {score: _spread([c["test"][name][score] for c in cells]) for score in SCORES}
    for method in sorted({c["method"] for c in cells}):
        mine = [c for c in cells if c["method"] == method]
        rows[method] = {score: _spread([c["test"]["pretrained"][score] for c in mine]) for score in SCORES}
        rows[method] |= {"seeds": len(mine), "cpu_minutes": round(statistics.mean(c["cpu_minutes"] for c in mine), 1)}
        rows[method]["rankme"] = round(statistics.mean(c["health"]["rankme"] for c in mine))
        rows[method]["verdict"] = mine[0]["verdict"].split(":")[0].split(" (")[0]
    return rows


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": round(statistics.mean(values), 2), "std": round(statistics.stdev(values), 2) if len(values) > 1 else 0.0}


def table(document: dict) -> str:
    """Markdown, best linear score first, the baselines last."""
    rows = document["summary"]
    methods = sorted(set(rows) - set(BASELINES), key=lambda name: -rows[name]["linear"]["mean"])
    machine = document["hardware"]
    lines = [
        f"# The family on {document['data']}",
        "",
        f"Test accuracy in %, frozen features, mean ± std over seeds. `{document['command']}`; {machine['cpu']}, "
        f"{machine['threads']} thread(s) a run; torch {document['versions']['torch']}. Every method: {document['budget']}.",
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
    return "\n".join(lines) + "\n"


def chart(document: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = document["summary"]
    methods = sorted(set(rows) - set(BASELINES), key=lambda name: rows[name]["linear"]["mean"])
    figure, axis = plt.subplots(figsize=(7.5, 0.32 * len(methods) + 1.2), layout="constrained")
    for score, colour, shift in (("linear", "#0072B2", 0.12), ("knn", "#D55E00", -0.12)):
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
    parser.add_argument("--scratch", type=Path, default=Path("runs") / "family")
    given = parser.parse_args()
    recipes = sorted((HERE / "recipes" / given.data).glob("*.yaml"))
    names = [path.stem for path in recipes]
    if unknown := set(given.methods or ()) - set(names):
        parser.error(f"--methods {' '.join(sorted(unknown))}: {given.data} has recipes for {', '.join(names) or 'none'}")
    path = given.kept / f"{given.data}.json"
    current = {recipe.stem: fingerprint(recipe) for recipe in recipes}
    cells = json.loads(path.read_text())["cells"] if path.exists() else []
    cells = [c for c in cells if c["recipe"] == current.get(c["method"])]
    for seed in given.seeds:
        for recipe in recipes:
            done = any((c["method"], c["seed"]) == (recipe.stem, seed) for c in cells)
            if done or recipe.stem not in (given.methods or names):
                continue
            cells.append(cell(recipe, seed, given.scratch))
            keep(path, given.data, cells)
    if not cells:
        print("nothing was run", file=sys.stderr)
        return 1
    print(table(keep(path, given.data, cells)))
    return 0


def keep(path: Path, data: str, cells: list[dict]) -> dict:
    """Write what there is: JSON, table, chart."""
    document = {
        "data": data,
        "command": "uv run python -m experiments.family --seeds " + " ".join(map(str, sorted({c["seed"] for c in cells}))),
        "budget": f"{cells[0]['steps']} steps, its recipe in experiments/recipes/{data}/",
        "hardware": hardware(),
        "versions": versions(),
        "summary": summary(cells),
        "cells": cells,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(document))
    chart(document, path.with_suffix(".png"))
    return document


if __name__ == "__main__":
    sys.exit(main())
