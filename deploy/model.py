"""An exported ONNX file and uploads, as the service uses them. No torch here.

The file's metadata state its input (`ExportModule.metadata`). Uploads come from strangers: an image's size is checked before
its pixels are decoded.
"""
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from vision.decode import NoImage, TooLarge, Unreadable
from vision.preprocess import Preprocessing


class RequestError(Exception):
    """What is wrong with a request.  status: HTTP's 4xx; reason: for the client; close: end the connection."""

    def __init__(self, status: int, reason: str, close: bool = False):
        super().__init__(reason)
        self.status, self.reason, self.close = status, reason, close


@dataclass(frozen=True)
class Outputs:
    """Of a batch; or of one image, without the first dimension."""

    logits: np.ndarray | None  # B,K; None of an encoder
    features: np.ndarray  # B,D

    def __getitem__(self, i: int) -> "Outputs":
        return Outputs(None if self.logits is None else self.logits[i], self.features[i])


class Model:
    """B,C,S,S arrays → `Outputs`, by onnxruntime on the CPU.  threads: 0 for all cores.

    Raises ValueError where deploy.export did not write the file.
    """

    def __init__(self, path: Path, threads: int = 0):
        if not path.is_file():
            raise ValueError(f"model={path}: no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the server needs the cores too
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            self.metadata = json.loads(self.session.get_modelmeta().custom_metadata_map["nolabel"])
            self.preprocessing = Preprocessing.of(self.metadata.get("preprocessing", self.metadata))  # older files: at the top
        except Exception as error:  # onnxruntime's have no common class
            why = " ".join(str(error).split())[:160]
            raise ValueError(f"model={path} is no ONNX file of deploy.export: {type(error).__name__}: {why}") from error
        self.path, self.input = path, self.session.get_inputs()[0].name
        self.output_names = [output.name for output in self.session.get_outputs()]

    @property
    def classes(self) -> list[str] | None:
        return self.metadata["classes"]

    def __call__(self, images: np.ndarray) -> Outputs:
        outputs = dict(zip(self.output_names, self.session.run(None, {self.input: images}), strict=True))
        return Outputs(outputs.get("logits"), outputs["features"])

    def preprocess(self, body: bytes, megapixels: float) -> np.ndarray:
        """An upload → C,S,S, the file's input, as in evaluation (vision/preprocess.py).  Raises RequestError."""
        pixels = read_upload(body, megapixels, self.preprocessing)
        return np.ascontiguousarray(pixels) if self.metadata["preprocess"] else self.preprocessing.normalized(pixels)

    taken = preprocess  # the former name


def read_upload(body: bytes, megapixels: float, preprocessing: Preprocessing) -> np.ndarray:
    """An upload → C,S,S uint8.  megapixels: a larger image is refused.  Raises RequestError."""
    if not body:
        raise RequestError(400, "the body is empty; send an image")
    try:
        return preprocessing.read(io.BytesIO(body), most=int(megapixels * 1e6))
    except Unreadable as error:
        status = 413 if isinstance(error, TooLarge) else 415 if isinstance(error, NoImage) else 400
        raise RequestError(status, f"the image cannot be used: {error}") from error
