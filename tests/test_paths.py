"""Every tool reads and writes in folders of any name, and a search and its workers too."""
from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image

NAMES = ["a (1), [x] {y} it's", '-x #5 50% $x="é"', "latin-1 \udce9 and NFD e\u0301"]
SHORT = ["--batch_size=16", "--evals=1", "--log_every=1", "--steps=2", "--image_size=16"]


@pytest.fixture(params=[NAMES[0], *(pytest.param(name, marks=pytest.mark.long) for name in NAMES[1:])],
                ids=["punctuation", "signs", "not UTF-8"])
def place(request, tmp_path_factory) -> Path:
    """A folder of that name with 60 images of two classes in photos/."""
    folder = tmp_path_factory.mktemp("paths") / request.param
    for i in range(60):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        path = folder / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.mark.slow
def test_tools_one_after_the_other(place, tmp_path):
    data = ["--data=folder", f"--data.root={place / 'photos'}"]

    def tool(module: str, leaves: str, *words: str) -> None:
        out = (place / leaves).parent
        ended = run(*words, f"--out={out}", logs=tmp_path / module, module=module)
        assert ended.code == 0, ended.err
        assert "Traceback" not in ended.err
        assert (place / leaves).is_file(), ended.out

    encoder, classifier = place / "p" / "encoder.safetensors", place / "f" / "classifier.safetensors"
    small = [*data, *SHORT, "--encoder=test_resnet", "--method.hidden=16", "--method.dim=8"]
    tool("ssl.pretrain", "p/encoder.safetensors", *small)
    tool("linear_eval.finetune", "f/classifier.safetensors", *data, *SHORT, f"--encoder={encoder}")
    few = ["--parts=[knn]", "--picture=false", f"--cache={place / 'features'}"]
    tool("linear_eval.evaluate", "e/results.json", *data, *few, f"--encoder={encoder}")
    if "," not in place.name:  # names of teachers and students are parted by commas
        words = [f"--teacher={classifier}", f"--student={encoder},test_resnet", "--method=kd", f"--cache={place / 'teachers'}"]
        tool("distill.train", "d/test_resnet/encoder.safetensors", *data, *SHORT, *words)
    tool("deploy.prune", "q/pruned.json", f"--encoder={classifier}", "--kind=unstructured", "--keep=0.9")
