"""Time two contestants in turn, report the ratio pair by pair, and keep the figures with hardware and versions."""
import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from core.machine import code, hardware, versions

RESULTS = Path(__file__).resolve().parent / "results"


def arguments(description: str, **extra) -> argparse.Namespace:
    """Command-line options: name=(default, meaning) or (default, meaning, value under --quick), besides the common ones."""
    quick = "--quick" in sys.argv[1:]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1 if quick else 5, help="pairs timed, after one that is not counted")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run? its figures mean nothing")
    parser.add_argument("--keep", action="store_true", help="write the figures to --results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of kept figures")
    for name, (default, meaning, *small) in extra.items():
        default = small[0] if quick and small else default
        parser.add_argument(f"--{name}", type=type(default), default=default, help=meaning)
    settings = parser.parse_args()
    if settings.quick and settings.keep and settings.results.resolve() == RESULTS:
        parser.error("--quick figures mean nothing: keep them, if at all, in another folder with --results")
    return settings


def skip(what: str, why: str) -> None:
    print(f"skipped {what}: {why}", flush=True)


def compare(
    peer: Callable[[], int], ours: Callable[[], int], rounds: int, against: str = "lightly",
    clock: Callable[[], float] = time.perf_counter,
) -> dict:
    """Each contestant does its work once and returns how many images (or calls) it did.  → figures a second, and ratios.

    against: the peer, a package or a form of our own. clock: in seconds
    """
    peer(), ours()
    rates = {"peer": [], "ours": []}
    for _ in range(rounds):
        for name, work in (("peer", peer), ("ours", ours)):
            start = clock()
            count = work()
            rates[name].append(count / (clock() - start))
    return {"against": against, **paired(rates["peer"], rates["ours"])}


def paired(peer: list[float], ours: list[float]) -> dict[str, dict]:
    """Rates, of which more is better → their spreads, and that of the ratios round by round."""
    ratios = [o / p for o, p in zip(ours, peer, strict=True)]
    return {"peer": spread(peer), "ours": spread(ours), "ratio": spread(ratios)}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def figure(value: float, unit: str) -> str:
    """As a reader wants it: images a second, but seconds a call.  (0.5, "calls/s") → 2 s"""
    if unit == "images/s" or not unit.endswith("/s"):
        return f"{value:,.0f} {unit}"
    name, factor = next(((n, f) for n, f in (("s", 1), ("ms", 1e3)) if f >= value), ("µs", 1e6))
    return f"{factor / value:.3g} {name}"


def report(name: str, unit: str, cases: dict[str, dict], settings: argparse.Namespace, notes: dict | None = None) -> None:
    """Print a table; with --keep, add it to the JSON of this machine's figures."""
    print(f"{'case':<64} {'peer':>16} {'ours':>16} {'ratio':>8}  (min … max)")
    for case, figures in cases.items():
        ratio, (peer, ours) = figures["ratio"], (figure(figures[who]["median"], unit) for who in ("peer", "ours"))
        against = figures.get("against", "lightly")
        label = case if against in case else f"{case}; {against}"
        print(f"{label:<64} {peer:>16} {ours:>16} {ratio['median']:>7.2f}×  ({ratio['min']:.2f} … {ratio['max']:.2f})")
    for key, value in (notes or {}).items():
        print(f"{key}: {value}")
    if not settings.keep:
        return
    settings.results.mkdir(parents=True, exist_ok=True)
    path = settings.results / f"{name}-{'gpu' if settings.device.startswith('cuda') else 'cpu'}.json"
    command = " ".join(["python -m", f"experiments.speed.{name}", *sys.argv[1:]])
    origin = {"unit": unit, "hardware": hardware(), "versions": versions()}
    document = json.loads(path.read_text()) if path.exists() else {}
    if {k: document.get(k) for k in origin} != origin:  # figures of another machine do not mix with these
        document = {**origin, "cases": {}, "notes": {}}
    document["cases"] |= {case: {"command": command, "code": code(), **figures} for case, figures in cases.items()}
    document["notes"] |= notes or {}
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"kept in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
