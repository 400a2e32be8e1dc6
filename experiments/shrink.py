"""What is left of a classifier at half of its multiply-adds, and how fast it is; then served under load.  Fashion-MNIST.

    uv run python -m experiments.shrink

`small` is trained with labels, pruned by whole channels (deploy.prune), and won back in two ways from the same weights:
fine-tuned with labels, and distilled from the unpruned one (KD). deploy.export measures each beside the unpruned one. Then
the unpruned one's INT8 file is served with 2,000 images to compare with, and asked 10,000 times, every hundredth time with
something bad. Kept in experiments/deploy/shrunk.json and load.json. A run that is done is not run
again.
"""
import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from core import checkpoint
from core.machine import certificate

KEPT = Path(__file__).resolve().parent / "deploy"
RUNS = Path("runs") / "shrink"
SGD = ("--optim.name=sgd", "--optim.lr=0.2", "--optim.weight_decay=5e-4")
DATA = "--data=fashion_mnist"


def command(module: str, out: Path, file: str, *words: str) -> Path:
    """Run a tool, or find it done.  → the file it leaves"""
    if not (out / file).exists():
        said = [*words, f"--out={out}"]
        print(f"{module} {' '.join(said)}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", module, *said], check=True, stdout=subprocess.DEVNULL)
    return out / file


def shrunk(keep: float, epochs: float, threads: int) -> dict:
    """Name → the card of deploy.export."""
    train = DATA, f"--epochs={epochs:g}", "--checks=1"
    whole = command("linear_eval.finetune", RUNS / "whole", "classifier.safetensors", "--encoder=small", *train, *SGD)
    pruned = command("deploy.prune", RUNS / "pruned", "classifier.safetensors", DATA, f"--encoder={whole}", f"--keep={keep:g}")
    tuned = command("linear_eval.finetune", RUNS / "tuned", "classifier.safetensors", f"--encoder={pruned}", *train, *SGD)
    taught = command("distill.train", RUNS / "taught", "classifier.safetensors", "--method=kd", f"--teacher={whole}",
                     f"--student={pruned}", *train)
    files = {"whole": whole, "pruned": pruned, "pruned, fine-tuned": tuned, "pruned, distilled": taught}
    cards = {}
    for name, file in files.items():
        more = [f"--against={whole}"] if file != whole else ["--gallery=2000"]
        out = RUNS / f"export {name}".replace(", ", " ").replace(" ", "-")
        card = command("deploy.export", out, "card.json", DATA, f"--encoder={file}", f"--threads={threads}", *more)
        cards[name] = json.loads(card.read_text())
    return cards


def summary(cards: dict) -> dict:
    """Share of the multiply-adds and parameters; accuracy, speed and size of each version."""
    whole, found = cards["whole"], {}
    for name, card in cards.items():
        found[name] = {
            "macs": card["macs"] / whole["macs"], "parameters": card["parameters"] / whole["parameters"],
            "rows": card["rows"], "alone": card["alone"], "refused": card["refused"],
        }
        if card["against"]:
            mine, other = card["rows"]["onnxruntime"], card["rows"]["against: onnxruntime"]
            found[name] |= {
                "speed, one image": other["p50"] / mine["p50"], "points": mine["accuracy"] - other["accuracy"],
                "speed, batch": mine["images_per_second"] / other["images_per_second"],
            }
    return found


# -------------------------------------------------------------------------------------------------------------------- load


def bad_uploads() -> list[bytes]:
    good = uploads(1)[0]
    return [b"", b"no image", good[: len(good) // 2], bytes(1000), good + bytes(11_000_000)]


def uploads(count: int) -> list[bytes]:
    """Test images as PNG files."""
    import io

    from PIL import Image

    from vision import datasets

    test = datasets.load("fashion_mnist", seed=0).test
    found = []
    for i in range(count):
        buffer = io.BytesIO()
        Image.fromarray(test.images[i, 0].numpy()).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def load(model: Path, gallery: Path, requests: int, parallel: int, threads: int) -> dict:
    """So many requests from so many connections, every hundredth bad."""
    words = [f"--model={model}", f"--gallery={gallery}", f"--threads={threads}", "--port=0"]
    process = subprocess.Popen([sys.executable, "-m", "deploy.serve", *words], stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().split()[-1]
        return {"requests": requests, "parallel": parallel} | asyncio.run(asked(url, process.pid, requests, parallel))
    finally:
        process.terminate()
        process.wait()


async def asked(url: str, pid: int, requests: int, parallel: int) -> dict:
    import httpx

    good, bad = uploads(500), bad_uploads()
    times, statuses, memory, numbers = [], {"good": {}, "bad": {}}, [], iter(range(requests))

    async def worker(client: httpx.AsyncClient) -> None:
        for i in numbers:
            wrong = i % 100 == 99
            start = time.perf_counter()
            answer = await client.post("/predict", content=bad[i // 100 % len(bad)] if wrong else good[i % len(good)])
            if not wrong:
                times.append(time.perf_counter() - start)
            counts = statuses["bad" if wrong else "good"]
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            if wrong:
                assert answer.json()["error"]
            if i % 1000 == 0:
                memory.append(resident(pid))

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        begin = time.perf_counter()
        await asyncio.gather(*(worker(client) for _ in range(parallel)))
        seconds = time.perf_counter() - begin
    p50, p95, p99 = np.percentile(times, [50, 95, 99]) * 1e3
    return {"requests_per_second": requests / seconds, "p50": p50, "p95": p95, "p99": p99, "statuses": statuses,
            "resident_mb": [*memory, resident(pid)]}


def resident(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=float, default=0.5, help="share of the multiply-adds")
    parser.add_argument("--epochs", type=float, default=5, help="of training, of fine-tuning and of distillation")
    parser.add_argument("--threads", type=int, default=1, help="of every version that is timed, and of the service's model")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--parallel", type=int, default=16, help="connections")
    given = parser.parse_args()
    cards = shrunk(given.keep, given.epochs, given.threads)
    shared = {**vars(given), **certificate([0], ("torch", "onnxruntime", "torch-pruning", "fastapi"))}
    kept = shared | {"versions of": summary(cards)}
    checkpoint.write(KEPT / "shrunk.json", json.dumps(kept, indent=1) + "\n")
    folder = RUNS / "export-whole"
    model = folder / ("model.int8.onnx" if (folder / "model.int8.onnx").exists() else "model.onnx")
    found = load(model, folder / "gallery", given.requests, given.parallel, given.threads)
    checkpoint.write(KEPT / "load.json", json.dumps(shared | {"model": model.name} | found, indent=1) + "\n")
    print(json.dumps({"shrunk": {name: {k: v for k, v in row.items() if isinstance(v, float)} for name, row in
                                 kept["versions of"].items()}, "load": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
