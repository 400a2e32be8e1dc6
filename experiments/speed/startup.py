"""From command to help text, and from command to the first optimizer step, in fresh processes.

    uv run python -m experiments.speed.startup --keep

Help: `lightly-ssl-train --help` against `python -m ssl.pretrain --help`. First step: lightly's example script
(lightly_first_step.py) until its first optimizer step is done, against `python -m ssl.pretrain --method simclr` until the
first row of metrics.jsonl; both SimCLR on scikit-learn's digits with the same encoder and batch. Ours checks every image before
that step, and looks at the untrained encoder behind it. --cpu 1 counts seconds of CPU, for a machine that does other things
too: those of the process and its threads, and of worker processes that it waited for (--workers 0: none).
"""
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from core.processes import session
from experiments.speed.side_by_side import arguments, compare, report, skip

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}


def to_the_end(command: list[str]) -> int:
    subprocess.run(command, check=True, **QUIET)
    return 1


def to_the_first_row(device: str) -> int:
    """Until ours has written a figure; then it is killed."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "run", "metrics.jsonl")
        words = ["--method", "simclr", "--data", "digits", "--log_every", "1", "--steps", "1000", "--evals", "1"]
        command = [sys.executable, "-m", "ssl.pretrain", *words, "--out", str(rows.parent), "--device", device]
        process = subprocess.Popen(command, **QUIET)
        try:
            while not (rows.exists() and rows.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} before its first row")
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
    return 1


def cpu_seconds() -> float:
    """Of processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    extra = {"workers": (2, "the example's worker processes", 1), "cpu": (0, "1: count seconds of CPU")}
    settings = arguments(__doc__.splitlines()[0], **extra)
    clock, suffix = (cpu_seconds, ", CPU") if settings.cpu else (time.perf_counter, "")
    device = settings.device.partition(":")[0]
    example = [sys.executable, "-m", "experiments.speed.lightly_first_step", device, str(settings.workers)]
    tool = Path(sys.executable).with_name("lightly-ssl-train")
    cases = {}
    with session(settings.device):
        if tool.exists():
            cases[f"--help{suffix}"] = compare(
                lambda: to_the_end([str(tool), "--help"]),
                lambda: to_the_end([sys.executable, "-m", "ssl.pretrain", "--help"]),
                settings.rounds,
                clock=clock,
            )
        else:
            skip("startup --help", f"there is no {tool}")
        cases[f"first step of SimCLR on digits{suffix}"] = compare(
            lambda: to_the_end(example), lambda: to_the_first_row(device), settings.rounds, clock=clock
        )
    report("startup", "starts/s", cases, settings)


if __name__ == "__main__":
    main()
