"""Time two contestants in turn, report the ratio pair by pair, and keep the figures with hardware and versions."""
import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "torchvision", "lightly", "timm")


def arguments(description: str, **extra) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pairs timed, after one that is not counted")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--keep", action="store_true", help="write the figures to experiments/speed/results")
    for name, (default, meaning) in extra.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=meaning)
    return parser.parse_args()


def hardware() -> dict:
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        info = Path("/proc/cpuinfo").read_text()
        names = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
        cpu = f"{names[0] if names else cpu}{', AMX' if 'amx_bf16' in info else ''}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "gpu": gpu, "threads": torch.get_num_threads()}


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def compare(peer: Callable[[], int], ours: Callable[[], int], rounds: int) -> dict:
    """Each contestant does its work once and returns how many images (or calls) it did.  → figures a second, and ratios."""
    peer(), ours()
    rates = {"peer": [], "ours": []}
    for _ in range(rounds):
        for name, work in (("peer", peer), ("ours", ours)):
            start = time.perf_counter()
            count = work()
            rates[name].append(count / (time.perf_counter() - start))
    ratios = [o / p for o, p in zip(rates["ours"], rates["peer"], strict=True)]
    return {name: spread(values) for name, values in {**rates, "ratio": ratios}.items()}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def report(name: str, unit: str, cases: dict[str, dict], settings: argparse.Namespace, notes: dict | None = None) -> None:
    """Print a table; with --keep, add it to the JSON of this machine's figures."""
    print(f"{'case':<44} {'peer ' + unit:>16} {'ours ' + unit:>16} {'ratio':>7}  (min … max)")
    for case, figures in cases.items():
        ratio = figures["ratio"]
        print(
            f"{case:<44} {figures['peer']['median']:>16.1f} {figures['ours']['median']:>16.1f} {ratio['median']:>6.2f}×"
            f"  ({ratio['min']:.2f} … {ratio['max']:.2f})"
        )
    for key, value in (notes or {}).items():
        print(f"{key}: {value}")
    if settings.keep:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}-{'gpu' if settings.device.startswith('cuda') else 'cpu'}.json"
        command = " ".join(["python -m", f"experiments.speed.{name}", *sys.argv[1:]])
        origin = {"unit": unit, "hardware": hardware(), "versions": versions()}
        document = json.loads(path.read_text()) if path.exists() else {}
        if {k: document.get(k) for k in origin} != origin:  # figures of another machine do not mix with these
            document = {**origin, "cases": {}, "notes": {}}
        document["cases"] |= {case: {"command": command, **figures} for case, figures in cases.items()}
        document["notes"] |= notes or {}
        path.write_text(json.dumps(document, indent=1) + "\n")
        print(f"kept in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
