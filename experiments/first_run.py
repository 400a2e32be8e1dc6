"""What the README promises a first run: the default configuration of a data set, over seeds, with what it cost.

    uv run python -m experiments.first_run --data fashion_mnist --seeds 0 1 2

Runs ssl.pretrain's own command line and keeps test scores, processor time and hardware in experiments/first_run/DATA.json,
with the first seed's curves and views beside it. A seed that is done is not run again; --again does.
"""
import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from core.machine import code, hardware, versions
from linear_eval.names import renamed

HERE = Path(__file__).resolve().parent
KEPT = HERE / "first_run"


def pretrain(words: list[str], out: Path) -> dict:
    """One run as a user would start it.  → test scores and cost."""
    command = [sys.executable, "-m", "ssl.pretrain", *words, "--out", str(out.resolve()), "--resume", "never"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, cwd=HERE.parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "minutes": round((time.monotonic() - start) / 60, 2),
        "cpu_minutes": round(cpu / 60, 2),
        "steps": rows[-1]["step"],
        "health": {k: v for k, v in rows[-1].items() if k != "step"},
        "test": json.loads((out / "test.json").read_text()),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation, in hundredths."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.mean(values), 2), "std": round(deviation, 2)}


def summary(runs: list[dict]) -> dict:
    """Mean and standard deviation over seeds of each test score."""
    out = {}
    for name in runs[0]["test"]:
        for score in ("knn", "logistic", "five_labels"):
            out[f"{name}, {score}"] = spread([r["test"][name][score] for r in runs])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--again", action="store_true", help="forget what is kept")
    given = parser.parse_args()
    path = KEPT / f"{given.method}-{given.data}.json"
    done = renamed(json.loads(path.read_text())["runs"]) if path.exists() and not given.again else []
    done = [run for run in done if "logistic" in run["test"]["pretrained"]]  # kept before there was such a score
    for seed in given.seeds:
        if any(r["seed"] == seed for r in done):
            continue
        out = Path("runs") / "first_run" / f"{given.method}-{given.data}-{seed}"
        shutil.rmtree(out, ignore_errors=True)
        words = ["--method", given.method, "--data", given.data, "--seed", str(seed)]
        done.append({"seed": seed} | pretrain(words, out))
        document = {
            "command": f"uv run python -m ssl.pretrain --method {given.method} --data {given.data} --seed SEED",
            "code": code(),
            "seeds": [run["seed"] for run in done],
            "hardware": hardware(),
            "versions": versions(),
            "summary": summary(done),
            "runs": done,
        }
        KEPT.mkdir(exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")
        if seed == given.seeds[0]:
            for picture in ("curves.png", "views.png"):
                shutil.copy(out / picture, KEPT / f"{given.method}-{given.data}-{picture}")
    print(json.dumps(summary(done), indent=1))


if __name__ == "__main__":
    main()
