"""From command to help text, and from command to the first optimizer step, in fresh processes.

    uv run python -m experiments.speed.startup --keep

Help: `lightly-ssl-train --help` against `python -m ssl.pretrain --help`. First step: lightly's example script
(lightly_first_step.py) until its first optimizer step is done, against `python -m ssl.pretrain --method simclr` until the
first row of metrics.jsonl; both SimCLR on scikit-learn's digits with the same encoder and batch. Ours checks every image,
looks at the untrained encoder for its verdict and writes a report's opening before that step.
"""
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


def main() -> None:
    settings = arguments(__doc__.splitlines()[0], workers=(2, "the example's worker processes", 1))
    device = settings.device.partition(":")[0]
    example = [sys.executable, "-m", "experiments.speed.lightly_first_step", device, str(settings.workers)]
    tool = Path(sys.executable).with_name("lightly-ssl-train")
    cases = {}
    with session(settings.device):
        if tool.exists():
            cases["--help"] = compare(
                lambda: to_the_end([str(tool), "--help"]),
                lambda: to_the_end([sys.executable, "-m", "ssl.pretrain", "--help"]),
                settings.rounds,
            )
        else:
            skip("startup --help", f"there is no {tool}")
        cases["first step of SimCLR on digits"] = compare(
            lambda: to_the_end(example), lambda: to_the_first_row(device), settings.rounds
        )
    report("startup", "starts/s", cases, settings)


if __name__ == "__main__":
    main()
