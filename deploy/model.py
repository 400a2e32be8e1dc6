"""An exported ONNX file as a service runs it, and uploads as it takes them. No torch here.

The file tells in its metadata what it takes (deploy/portable.py: `says`). Uploads are strangers': nothing of one is believed
before it was looked at, and pixels are decoded only when there are not too many.
"""
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from vision.decode import NoImage, TooLarge, Unreadable
from vision.preprocess import Preprocessing


class Refused(Exception):
    """What is wrong with a request.  status: HTTP's 4xx; reason: for whoever sent it; close: hear no more of them."""

    def __init__(self, status: int, reason: str, close: bool = False):
        super().__init__(reason)
        self.status, self.reason, self.close = status, reason, close


@dataclass(frozen=True)
class Outputs:
    """Of a batch, or of one image: a row less."""

    logits: np.ndarray | None  # B,K; None of an encoder
    features: np.ndarray  # B,D

    def __getitem__(self, i: int) -> "Outputs":
        return Outputs(None if self.logits is None else self.logits[i], self.features[i])


class Model:
    """B,C,S,S arrays → `Outputs`, by onnxruntime on the CPU.  threads: 0 for all cores.

    Raises ValueError where the file is none that deploy.export wrote.
    """

    def __init__(self, path: Path, threads: int = 0):
        if not path.is_file():
            raise ValueError(f"model={path}: no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are the server's too
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            self.says = json.loads(self.session.get_modelmeta().custom_metadata_map["nolabel"])
            self.preprocessing = Preprocessing.of(self.says.get("preprocessing", self.says))  # older files: the same way
        except Exception as error:  # onnxruntime's have no common class
            why = " ".join(str(error).split())[:160]
            raise ValueError(f"model={path} is no ONNX file of deploy.export: {type(error).__name__}: {why}") from error
        self.path, self.input = path, self.session.get_inputs()[0].name
        self.names = [output.name for output in self.session.get_outputs()]

    @property
    def classes(self) -> list[str] | None:
        return self.says["classes"]

    def __call__(self, images: np.ndarray) -> Outputs:
        found = dict(zip(self.names, self.session.run(None, {self.input: images}), strict=True))
        return Outputs(found.get("logits"), found["features"])

    def taken(self, body: bytes, megapixels: float) -> np.ndarray:
        """An upload → C,S,S as the file takes it, made as for evaluation (vision/preprocess.py).  Raises Refused."""
        pixels = read(body, megapixels, self.preprocessing)
        return np.ascontiguousarray(pixels) if self.says["preprocess"] else self.preprocessing.normalized(pixels)


def read(body: bytes, megapixels: float, how: Preprocessing) -> np.ndarray:
    """An upload → C,S,S uint8.  Raises Refused."""
    if not body:
        raise Refused(400, "the body is empty; send an image")
    try:
        return how.read(io.BytesIO(body), most=int(megapixels * 1e6))
    except Unreadable as error:
        status = 413 if isinstance(error, TooLarge) else 415 if isinstance(error, NoImage) else 400
        raise Refused(status, f"the image cannot be used: {error}") from error
