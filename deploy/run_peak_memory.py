"""Print by how many bytes a process grows, at its largest, that loads an ONNX file and runs a batch of zeros. Linux only.

    python -I deploy/run_peak_memory.py FILE.onnx THREADS BATCH

Loaded libraries do not count: memory that they have freed is given back first, and the peak before is forgotten.
"""
import ctypes
import gc
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

RUNS = 3


def kilobytes(name: str) -> int:
    return int(re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)[1])


def main() -> int:
    file, threads, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the memory of now (man 5 proc)
    before = kilobytes("VmRSS")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    [entry] = session.get_inputs()
    images = np.zeros((batch, *entry.shape[1:]), np.float32)
    for _ in range(RUNS):
        session.run(None, {entry.name: images})
    print((kilobytes("VmHWM") - before) * 1024)
    return 0


if __name__ == "__main__":
    sys.exit(main())
