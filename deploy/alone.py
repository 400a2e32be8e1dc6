"""What ONNX files answer in a process that has no torch and none of our code.

    python -I deploy/alone.py IMAGES.npy OUT.npz FILE.onnx …
"""
import sys

import numpy as np
import onnxruntime

BLOCK = 50  # images at a time


def main() -> int:
    images, out, *files = sys.argv[1:]
    taken, answers = np.load(images), {}
    for file in files:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        name, blocks = session.get_inputs()[0].name, [taken[i : i + BLOCK] for i in range(0, len(taken), BLOCK)]
        answers[file] = np.concatenate([session.run(None, {name: block})[0] for block in blocks])
    assert "torch" not in sys.modules
    np.savez(out, **answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
