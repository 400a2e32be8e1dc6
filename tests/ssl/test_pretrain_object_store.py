"""A run on shards in a bucket, a fifth of the requests failing: to the byte the weights of a run on a disk."""
import os
from pathlib import Path

import pytest
import webdataset
from commands import run
from object_stores import Proxy, environment, moto, proxy
from PIL import Image
from sklearn.datasets import load_digits

SETTINGS = ["--data=shards", "--data.window=2", "--encoder=test_resnet", "--image_size=8", "--batch_size=16", "--steps=6"]
SETTINGS += ["--method.hidden=16", "--method.dim=8", "--evals=1", "--report=false", "--trackers=none"]


@pytest.fixture
def shards(tmp_path) -> Path:
    root = tmp_path / "wds"
    root.mkdir()
    images, labels = load_digits(return_X_y=True)
    for shard in range(5):
        with webdataset.TarWriter(str(root / f"digits-{shard}.tar")) as tar:
            for n in range(shard * 30, shard * 30 + 30):
                gray = Image.fromarray((images[n].reshape(8, 8) * 15).astype("uint8"))
                tar.write({"__key__": f"{n:04d}", "png": gray, "cls": int(labels[n])})
    return root


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_from_a_bucket(shards, tmp_path, workers):
    pytest.importorskip("moto.server")
    words = [*SETTINGS, f"--workers={workers}"]
    near = run(*words, f"--data.root={shards}", f"--out={tmp_path / 'near'}", logs=tmp_path / "a")
    assert near.code == 0, near.err
    with moto() as server, proxy(state := Proxy(server.port, failing=0.2, slow=0.2)) as port:
        url = server.upload(shards, "digits")
        there = environment(port) | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        far = run(*words, f"--data.root={url}", f"--out={tmp_path / 'far'}", logs=tmp_path / "b", **there)
    assert far.code == 0, far.err
    assert state.failed
    weights = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("near", "far")]
    assert weights[0] == weights[1]
    for path in (tmp_path / "far").rglob("*"):
        assert path.is_dir() or b"test-secret" not in path.read_bytes()
    assert not any("test-secret" in value for name, value in os.environ.items() if name.startswith("AWS_"))
