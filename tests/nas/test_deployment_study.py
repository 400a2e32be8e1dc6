"""A small study on real images, by INT8 latency and size: measured again at its end, and its front exported."""
import json

import onnxruntime
import pytest

from core import cli, guard
from nas import export, report, search, study
from nas.remeasure import device_figures, remeasure
from tests.nas.test_search_command import OPTIONS
from vision import artifact

STUDY = [o.lstrip("-") for o in OPTIONS if o.split("=")[0] not in ("--trials", "--epochs", "--limit", "--tune", "--rungs")]
STUDY += ["trials=3", "epochs=1", "rungs=1", "objectives='accuracy,int8_latency,size'", "limit='size:0.12'", "parallel=1"]


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_int8_latency_and_size_end_to_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(guard, "end_with_parent", lambda: None)
    settings = cli.compose(study.TOOL, STUDY)
    store = study.open_store(settings)
    search.run_worker(settings)
    trained = [r for r in store.records() if r.rungs]
    assert len(trained) == 3
    for r in trained:
        file = r.run_folders("s")[0] / "encoder.safetensors"
        assert r.costs["size"] <= 0.12
        assert r.costs["size"] == pytest.approx(file.stat().st_size / 1e6, rel=0.05), "bytes of the file, but for its header"
        assert 0 < r.costs["int8_size"] < 0.12
        assert "training images" in r.methods["int8_latency"]
        assert r.rungs[0].values == [r.rungs[0].figures["knn"], r.costs["int8_latency"], r.costs["size"]]

    config = study.search_config(settings)
    remeasure(settings, store, config)
    result, device = report.write(store, config), device_figures(store)
    assert result.front
    for r in result.front:
        assert r.figures["int8_latency"] == device.rows[r.number].figures["int8_latency"] > 0
        assert device.rows[r.number].reference["int8_latency"] > 0
    assert "Latency of the front was measured when the study had ended" in result.summary
    kept = json.loads((result.folder / "results.json").read_text())
    assert [*kept["device"]["rows"]] == [str(number) for number in device.rows]
    remeasure(settings, store, config)
    assert device_figures(store) == device, "measured once"

    index = export.export_front(cli.compose(export.TOOL, ["study=s", "out=exported", "calibration=64", "int8=static"]))
    assert sorted(row.trial for row in index.rows) == sorted(r.number for r in result.front)
    for row in index.rows:
        folder = tmp_path / "exported" / f"{row.trial:05d}"
        dim = artifact.read_header(result.encoders[row.trial]).dim
        for name in ("model.onnx", *(["model.int8.onnx"] if row.int8 else [])):
            assert onnxruntime.InferenceSession(folder / name).get_outputs()[0].shape[1] == dim
        assert row.size == pytest.approx((folder / "model.onnx").stat().st_size / 1e6)
        assert row.own == next(r.figures["knn"] for r in result.front if r.number == row.trial)
        assert row.int8 or "INT8 static" in row.refused
    assert "<svg" in (tmp_path / "exported" / "index.html").read_text()
