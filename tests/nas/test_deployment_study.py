"""A small study on real images, by INT8 latency and size: measured again at its end, and its front exported."""
import json
import os

import onnxruntime
import pytest
from commands import ROOT, real

from tests.nas.test_search_command import OPTIONS, results
from vision import artifact

STUDY = [o for o in OPTIONS if o.split("=")[0] not in ("--trials", "--epochs", "--limit", "--tune", "--rungs")]
STUDY += ["--trials=3", "--epochs=1", "--rungs=1", "--objectives=knn,int8_latency,size", "--limit=size:0.12", "--parallel=1"]


@pytest.mark.long
def test_int8_latency_and_size_end_to_end(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    job = real(*STUDY, module="nas.search", cwd=tmp_path, env=environment)
    out, err = job.communicate(timeout=1500)
    assert job.returncode == 0, err
    found, place = results(tmp_path), tmp_path / "runs" / "nas" / "s"
    trained = [t for t in found["trials"] if t["rungs"]]
    assert len(trained) == 3
    for t in trained:
        file = place / "trials" / f"{t['number']:05d}" / "encoder.safetensors"
        assert t["costs"]["size"] <= 0.12
        assert t["costs"]["size"] == pytest.approx(file.stat().st_size / 1e6, rel=0.05), "bytes of the file, but for its header"
        assert 0 < t["costs"]["int8_size"] < 0.12
        assert "training images" in t["methods"]["int8_latency"]
        assert t["rungs"][0]["values"] == [t["rungs"][0]["figures"]["knn"], t["costs"]["int8_latency"], t["costs"]["size"]]
    for number in found["front"]:
        row = found["device"]["rows"][str(number)]
        assert row["figures"]["int8_latency"] == found["trials"][number]["costs"]["int8_latency"] > 0
        assert row["reference"]["int8_latency"] > 0
        assert found["trials"][number]["first_costs"]["int8_latency"] > 0
    assert "Latency of the front was measured when the study had ended" in out
    job = real("--study=s", "--out=exported", "--calibration=64", "--int8=static", module="nas.export", cwd=tmp_path,
               env=environment)
    out, err = job.communicate(timeout=1500)
    assert job.returncode == 0, err
    index = json.loads((tmp_path / "exported" / "index.json").read_text())
    assert sorted(row["trial"] for row in index["rows"]) == sorted(found["front"])
    for row in index["rows"]:
        folder = tmp_path / "exported" / f"{row['trial']:05d}"
        dim = artifact.read_header(place / "front" / f"{row['trial']:05d}" / "encoder.safetensors").dim
        for name in ("model.onnx", *(["model.int8.onnx"] if row["int8"] else [])):
            assert onnxruntime.InferenceSession(folder / name).get_outputs()[0].shape[1] == dim
        assert row["size"] == pytest.approx((folder / "model.onnx").stat().st_size / 1e6)
        assert row["own"] == found["trials"][row["trial"]]["rungs"][0]["figures"]["knn"]
        assert row["int8"] or "INT8 static" in row["refused"]
    assert "<svg" in (tmp_path / "exported" / "index.html").read_text()
