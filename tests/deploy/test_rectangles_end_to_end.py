"""One shape and fit from pretraining to the service: a folder of photographs of many shapes, by the commands."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import run
from PIL import Image
from skimage import data as pictures

from deploy.model import Model
from vision import artifact
from vision.geometry import Geometry


@pytest.mark.long
def test_from_pretraining_to_the_service(tmp_path):
    rng = np.random.default_rng(0)
    for name, image in {"cat": pictures.chelsea(), "coffee": pictures.coffee()}.items():
        for split, count in (("train", 20), ("test", 6)):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                h, w = rng.integers(40, 120, 2)
                top, left = rng.integers(0, image.shape[0] - h), rng.integers(0, image.shape[1] - w)
                path = tmp_path / "photos" / split / name / f"{i}.png"
                Image.fromarray(image[top : top + h, left : left + w]).save(path)
    data = ["--data=folder", f"--data.root={tmp_path / 'photos'}", "--workers=0"]
    short = ["--batch_size=16", "--steps=3", "--evals=1"]

    def do(module: str, *words: str) -> None:
        ended = run(*words, *data, f"--out={tmp_path / module}", logs=tmp_path / "logs" / module, module=module)
        assert ended.code == 0, ended.err

    do("ssl.pretrain", "--method=simclr", "--encoder=test_resnet", "--image_size=32x48", "--image_fit=letterbox",
       "--augment.local.views=1", "--method.hidden=16", "--method.dim=8", *short)
    encoder = tmp_path / "ssl.pretrain" / "encoder.safetensors"
    geometry = artifact.read_header(encoder).spec.geometry
    assert geometry == Geometry(32, 48, "letterbox", (0.485, 0.456, 0.406))
    assert "ImageOps.pad(image, (48, 32)" in (tmp_path / "ssl.pretrain" / "report.md").read_text()

    do("linear_eval.evaluate", f"--encoder={encoder}", "--parts=[knn]", "--cache=none", "--picture=false")
    assert json.loads((tmp_path / "linear_eval.evaluate" / "results.json").read_text())["encoder"]["image_size"] == [32, 48]

    do("linear_eval.finetune", f"--encoder={encoder}", "--least_steps=0", *short)
    classifier = tmp_path / "linear_eval.finetune" / "classifier.safetensors"
    assert artifact.read_header(classifier).spec.geometry == geometry

    do("distill.train", f"--teacher={classifier}", "--student=test_resnet", "--method=kd", "--image_size=24x40", "--cache=none",
       *short)
    student = tmp_path / "distill.train" / "encoder.safetensors"
    assert artifact.read_header(student).spec.geometry == replace(geometry, height=24, width=40)

    do("deploy.export", f"--encoder={classifier}", "--int8=none", "--preprocess")
    model = Model(tmp_path / "deploy.export" / "model.onnx")
    assert model.preprocessing.geometry == geometry
    whole, header = artifact.load_classifier(classifier)
    path = tmp_path / "photos" / "test" / "cat" / "0.png"
    found = model(model.preprocess(path.read_bytes(), 10)[None]).logits
    with torch.no_grad(), open(path, "rb") as file:
        how = header.preprocessing
        expected = whole(torch.from_numpy(how.normalized(how.read(file)))[None]).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
