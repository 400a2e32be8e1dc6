"""Measures deploy.serve under load: throughput, latency, status codes and memory.  A cell of the table fashion_mnist_shrunk.

A tool of its own because no command of deploy sends requests. Every hundredth request is bad. 16 connections, on this machine.
"""
import argparse
import asyncio
import io
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from core import checkpoint


def bad_uploads() -> list[bytes]:
    good = uploads(1)[0]
    return [b"", b"no image", good[: len(good) // 2], bytes(1000), good + bytes(11_000_000)]


def uploads(count: int) -> list[bytes]:
    """Test images of Fashion-MNIST as PNG files."""
    from PIL import Image

    from vision import datasets

    images = datasets.load("fashion_mnist", seed=0).test.images[:count, 0].numpy()
    buffers = [io.BytesIO() for _ in images]
    for image, buffer in zip(images, buffers, strict=True):
        Image.fromarray(image).save(buffer, "PNG")
    return [buffer.getvalue() for buffer in buffers]


def serve_load(options: argparse.Namespace) -> dict:
    arguments = [f"--model={options.model}", f"--gallery={options.gallery}", f"--threads={options.threads}", "--port=0"]
    process = subprocess.Popen([sys.executable, "-m", "deploy.serve", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        return asyncio.run(request_all(url, process.pid, options.requests, options.parallel))
    finally:
        process.terminate()
        process.wait()


async def request_all(url: str, pid: int, requests: int, parallel: int) -> dict:
    import httpx

    good, bad = uploads(500), bad_uploads()
    times: list[float] = []
    memory: list[float] = []
    statuses, numbers = {"good": Counter(), "bad": Counter()}, iter(range(requests))

    async def worker(client: httpx.AsyncClient) -> None:
        for i in numbers:
            is_bad, start = i % 100 == 99, time.perf_counter()
            answer = await client.post("/predict", content=bad[i // 100 % len(bad)] if is_bad else good[i % len(good)])
            if is_bad:
                assert answer.json()["error"]
            else:
                times.append(time.perf_counter() - start)
            statuses["bad" if is_bad else "good"][answer.status_code] += 1
            if i % 1000 == 0:
                memory.append(resident_mb(pid))

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        begin = time.perf_counter()
        await asyncio.gather(*(worker(client) for _ in range(parallel)))
        seconds = time.perf_counter() - begin
    p50, p95, p99 = np.percentile(times, [50, 95, 99]) * 1e3
    return {"requests": requests, "parallel": parallel, "requests_per_second": requests / seconds, "p50": p50, "p95": p95,
            "p99": p99, "statuses": statuses, "resident_mb": [*memory, resident_mb(pid)]}


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1e3


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="an ONNX file of deploy.export")
    parser.add_argument("--gallery", required=True, help="a folder of images to find neighbors in")
    parser.add_argument("--threads", type=int, default=1, help="of the service's model")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--parallel", type=int, default=16, help="connections")
    parser.add_argument("--out", type=Path, required=True, help="the JSON of the figures")
    options = parser.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(options.out, json.dumps(serve_load(options), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
