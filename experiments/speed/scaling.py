"""SimCLR on N processes of one machine against one: images a second of the same global batch.

    uv run python -m experiments.speed.scaling --keep

Each is `python -m ssl.pretrain --devices N`, as users run it: on a CPU with one thread a process, on GPUs one GPU a process.
A run's figure is the median of what its log says once compilation is behind it. BatchNorm's statistics, embeddings and
gradients cross between processes at every step.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from core.machine import cores
from experiments.speed.side_by_side import arguments, paired, report, skip

ROOT = Path(__file__).resolve().parents[2]
WARM = 2  # rows of the log that do not count: the first compile


def rate(processes: int, settings) -> float:
    """Images a second of one run."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        flags = ["--data=synthetic", "--evals=1", "--log_every=2", f"--image_size={settings.size}"]
        flags += [f"--encoder={settings.encoder}", f"--batch_size={settings.batch}", f"--steps={settings.steps}"]
        flags += [f"--devices={processes}", f"--device={settings.device}", f"--out={out}"]
        command = [sys.executable, "-m", "ssl.pretrain", *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
                       env=os.environ | {"OMP_NUM_THREADS": "1"})
        rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        return statistics.median([row["images_per_second"] for row in rows if "images_per_second" in row][WARM:])


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0], encoder=("small", "of the run"), batch=(256, "images a step of all processes", 32),
        steps=(40, "of a run", 8), size=(28, "pixels a side"),
    )
    there = torch.cuda.device_count() if settings.device.startswith("cuda") else cores()
    cases = {}
    for count in (2, 4, 8):
        if count > there:
            skip(f"{count} processes", f"this machine has {there} {'GPUs' if settings.device.startswith('cuda') else 'cores'}")
            continue
        rates = [(rate(1, settings), rate(count, settings)) for _ in range(settings.rounds)]
        figures = {"against": "one process", "processes": count, **paired(*map(list, zip(*rates, strict=True)))}
        cases[f"{count} processes, {settings.encoder}, {settings.size} px, {settings.batch} images a step"] = figures
    report("scaling", "images/s", cases, settings)


if __name__ == "__main__":
    main()
