"""The memory that inference takes, measured in a process of its own."""
import subprocess
import sys
from pathlib import Path

from core.errors import RunError

SCRIPT = Path(__file__).with_name("run_peak_memory.py")


def available() -> bool:
    """Can it be measured here? Linux alone says it of a process."""
    return Path("/proc/self/clear_refs").exists()


def peak_memory(file: Path, threads: int, batch: int = 1) -> float:
    """MB (10⁶ bytes) by which a process grows at the most that loads the ONNX file and runs a batch, by onnxruntime.

    It holds weights, activations and what the runtime reserves, and so depends on onnxruntime's version and on its threads;
    `vision.cost.memory` is the part that does not.  Raises RunError.
    """
    command = [sys.executable, "-I", str(SCRIPT), str(file), str(threads), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RunError(f"the memory of inference could not be measured: {why[:200]}")
    return int(done.stdout) / 1e6
