"""Run ONNX files in a process that has neither torch nor nolabel, and save their first outputs.

    python -I deploy/run_without_torch.py IMAGES.npy OUT.npz FILE.onnx …
"""
import sys

import numpy as np
import onnxruntime

BATCH = 50  # images at a time


def main() -> int:
    images_file, out, *files = sys.argv[1:]
    images, outputs = np.load(images_file), {}
    for file in files:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        name, batches = session.get_inputs()[0].name, [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
        outputs[file] = np.concatenate([session.run(None, {name: batch})[0] for batch in batches])
    assert "torch" not in sys.modules
    np.savez(out, **outputs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
