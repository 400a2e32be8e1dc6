"""Run ExecuTorch files in a process that imports nothing of nolabel, and save their first outputs by the files' names.

    python -I deploy/run_executorch.py IMAGES.npy OUT.npz FILE.pte …

ExecuTorch's Python runtime hands tensors over as torch's, so torch is there; the files are computed without it.
"""
import sys
from pathlib import Path

import numpy as np
import torch
from executorch.runtime import Runtime


def main() -> int:
    images_file, out, *files = sys.argv[1:]
    images, outputs = torch.from_numpy(np.ascontiguousarray(np.load(images_file))), {}
    for file in map(Path, files):
        program = Runtime.get().load_program(file)
        method = program.load_method("forward")
        outputs[file.name] = np.concatenate([np.array(method.execute([images[i : i + 1]])[0]) for i in range(len(images))])
    np.savez(out, **outputs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
