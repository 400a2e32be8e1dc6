"""`python -m deploy.latency`: its table, its chart, and its mistakes in a line."""
import csv
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import real

from core import cli
from deploy import export_module, latency, runtime
from deploy.latency_report import LatencyResult, LatencyRow
from deploy.settings import LatencySettings
from deploy.timing import interleaved, timed
from vision import artifact, encoders
from vision.augment import Augmentation


@pytest.mark.long
def test_every_framework_batch_and_number_of_threads_is_a_row(tmp_path):
    out = tmp_path / "out"
    arguments = "--encoders=tiny,lenet5", "--image_size=28", "--channels=1", "--batches=1,4", "--threads=1", f"--out={out}"
    job = real(*arguments, "--frameworks=torch,onnxruntime,TensorRT", module="deploy.latency")
    printed, err = job.communicate(timeout=300)
    assert job.returncode == 0, err
    with open(out / "latency.csv") as file:
        rows = list(csv.DictReader(file))
    cases = {(r["encoder"], r["framework"], r["batch"]) for r in rows}
    assert cases == {(e, f, b) for e in ("tiny", "lenet5") for f in ("torch", "onnxruntime") for b in "14"}
    for row in rows:
        assert 0 < float(row["p50"]) <= float(row["p95"]) <= float(row["p99"])
        assert float(row["images_per_second"]) == pytest.approx(1e3 * int(row["batch"]) / float(row["p50"]), rel=1e-4)
    kept = json.loads((out / "results.json").read_text())
    assert kept["hardware"]["cpu"] in printed
    assert "not TensorRT: " in printed
    assert {"latency.svg", "report.html", "report.md"} <= {path.name for path in out.iterdir()}


def test_as_a_function_it_returns_the_rows(tmp_path):
    settings = LatencySettings("tiny", "torch,TensorRT", "2", "1", image_size=28, channels=1, out=str(tmp_path / "out"))
    result = latency.latency(settings)
    assert [(row.framework, row.batch, row.threads) for row in result.rows] == [("torch", 2, 1)]
    assert any(name.startswith("TensorRT") for name in result.missing)
    assert json.loads((result.folder / "results.json").read_text())["rows"] == [asdict(row) for row in result.rows]


def test_an_encoder_by_name_has_the_input_of_the_file_beside_it(tmp_path, capsys):
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(artifact.dumps(encoders.create("tiny", 1, 24).eval(), Augmentation(24, (0.3,), (0.3,)), {}))
    settings = LatencySettings(f"tiny,{file}", "torch", "1", "1", out=str(tmp_path / "out"))
    result = latency.latency(settings)
    assert [(row.encoder, row.image_size) for row in result.rows] == [("tiny", 24), (str(file), 24)]
    assert len({row.macs for row in result.rows}) == 1
    assert f"encoders by name at 24 px and 1 channels, as {file}" in capsys.readouterr().err
    assert "| encoder | px | framework |" in result.text
    own = latency.named_input(LatencySettings(f"tiny,{file}", image_size=32))
    assert (own.image_size, own.channels, own.source) == (32, 3, None)
    typed = cli.compose(latency.TOOL, [f"encoders='tiny,{file}'", "image_size=224"])
    assert latency.named_input(typed).image_size == 224, "what is typed holds, the default too"


def test_times_that_vary_are_said_to():
    def row(p95: float) -> LatencyRow:
        return LatencyRow("tiny", 8, "torch", "cpu", 1, 1, 1.0, 1.0, 1.0, p95, p95, 1.0)

    noisy, steady = (LatencyResult(Path(), [row(p95)], {}, {"hardware": {"cpu": "a CPU"}}) for p95 in (9.0, 1.5))
    assert "Times of torch of tiny varied too much to compare" in noisy.text
    assert "varied" not in steady.text


def test_time_is_of_the_calls_alone():
    found = timed(lambda: None, 4)
    assert 0 < found.p50 <= found.p95 <= found.p99 < 1
    assert found.images_per_second == pytest.approx(4 / (found.p50 / 1e3))


def test_each_runs_on_its_own_images_in_turn():
    calls = []

    def runner(name: str):
        return lambda images: calls.append((name, len(images)))

    found = interleaved({"a": partial(runner("a"), np.zeros((1, 1))), "b": partial(runner("b"), np.zeros((3, 1)))}, 1, rounds=2)
    assert set(calls) == {("a", 1), ("b", 3)}
    turns = [name for i, (name, _) in enumerate(calls) if i == 0 or calls[i - 1][0] != name]
    assert turns == ["a", "b", "a", "b"]
    assert set(found) == {"a", "b"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_outputs_of_the_cpu():
    module, cuda = export_module.named("tiny", 1, 28), torch.device("cuda")
    images = module.example(8).numpy()
    expected = runtime.eager(module)(images)
    np.testing.assert_allclose(runtime.eager(module.to(cuda), cuda)(images), expected, rtol=1e-2, atol=1e-3)  # TF32


@pytest.mark.parametrize(("arguments", "message"), [
    (["--encoders=no_such_net"], "no_such_net"),
    (["--encoders=none.safetensors"], "no such file"),
    (["--frameworks=tflite"], "frameworks=tflite: must be some of torch, torch.compile"),
    (["--batches=0"], "batches=0: must be 1 or more"),
    (["--batches=a,2"], "batches=a,2: must be whole numbers by commas"),
    (["--threads=-1"], "threads=-1: must be 0 or more"),
    (["--device=tpu"], "device=tpu: must be cpu or cuda"),
    (["--batch=1"], "there is no setting 'batch'; did you mean batches?"),
])
def test_a_mistake_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(latency.TOOL, partial(latency.start), arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
