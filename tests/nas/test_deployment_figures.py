"""The figures of deployment themselves, against oracles: scikit-learn, files of known size, the float32 network."""
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from core import cli
from core.errors import NotQuantizable
from deploy import int8_network, peak_memory, runtime
from deploy.timing import Timing
from linear_eval.features import evenly, images_of
from linear_eval.knn import knn_accuracy
from linear_eval.probe import logistic_accuracy
from nas import deployment, device_timing, latency_profile
from nas.device_timing import Timed
from nas.export_index import FrontIndex, FrontRow
from nas.latency_profile import LatencyProfile, descriptors
from nas.plan import kept_profile
from nas.profile import fit
from nas.study import TOOL
from vision import artifact, cost, encoders
from vision.data import build_data
from vision.pixels import normalize_images


def networks(count: int = 12) -> tuple[list[dict[str, float]], np.ndarray]:
    rng = np.random.RandomState(0)
    rows = [{name: float(np.exp(rng.uniform(-2, 2))) for name in ("macs", "parameters", "layers", "activations")}
            for _ in range(count)]
    latency = [0.3 * row["macs"] ** 0.6 * row["layers"] ** 0.3 for row in rows]
    return rows, np.array(latency)


def test_a_latency_that_is_a_power_law_is_found_again():
    rows, latency = networks()
    reference = np.linspace(1.0, 3.0, len(rows))  # a machine that becomes slower: ratios stay
    model = fit(rows, [Timed(ms * slow, ms * slow, slow) for ms, slow in zip(latency, reference, strict=True)])
    assert model.largest_error < 1
    assert model.spearman == pytest.approx(1)
    assert model.spearman_macs < 1
    new = {"macs": 1.5, "parameters": 0.4, "layers": 2.0, "activations": 1.0}
    assert model.predict(new) == pytest.approx(2.0 * 0.3 * 1.5**0.6 * 2.0**0.3, rel=0.01), "at the reference's median, 2 ms"


def test_the_prediction_is_that_of_scikit_learn():
    rows, latency = networks()
    latency = latency * np.exp(np.random.RandomState(1).normal(0, 0.3, len(rows)))
    model = fit(rows, [Timed(ms, ms, 1.0) for ms in latency])
    x = np.log([[*row.values()] for row in rows])
    theirs = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 2, 11))).fit(x, np.log(latency))
    assert [model.predict(row) for row in rows] == pytest.approx(np.exp(theirs.predict(x)))
    left_out = []
    for i in range(len(rows)):
        rest = [j for j in range(len(rows)) if j != i]
        one = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 2, 11))).fit(x[rest], np.log(latency)[rest])
        left_out.append(abs(np.exp(one.predict(x[[i]])[0]) / latency[i] - 1) * 100)
    assert (model.median_error, model.largest_error) == pytest.approx((np.median(left_out), max(left_out)))


def timing(p50: float, p95: float) -> Timing:
    return Timing(p50, p95, p95, 0.0)


def test_times_are_taken_again_until_they_are_steady(monkeypatch):
    def rounds(*pairs):
        times = iter(pairs)
        monkeypatch.setattr(device_timing, "interleaved", lambda calls, images: {
            "network": timing(*next(times)), "reference": timing(2.0, 2.0)})
        timer = object.__new__(device_timing.DeviceTimer)
        timer.reference = {"latency": None}
        return timer.timed("latency", lambda: None), [*times]

    assert rounds((1.0, 3.0), (1.2, 1.5), (9.0, 9.0)) == (Timed(1.2, 1.5, 2.0), [(9.0, 9.0)])
    found, _ = rounds((1.0, 3.0), (1.0, 2.5), (1.0, 4.0))
    assert (found, found.steady, found.ratio) == (Timed(1.0, 2.5, 2.0), False, 0.5)
    assert device_timing.figures(["latency", "latency_p95"], {"latency": found}) == {"latency": 1.0, "latency_p95": 2.5}


def test_a_profile_is_read_again_and_refused_where_it_does_not_fit(tmp_path):
    rows, latency = networks()
    model = fit(rows, [Timed(ms, ms, 1.0) for ms in latency])
    profile = LatencyProfile({"int8_latency": model}, "tabular", 14, 1, 1, "cpu", {"cpu": "x", "gpu": None})
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(profile.json))
    found = latency_profile.read(file)
    assert dataclasses.replace(found, digest="") == profile
    latency_profile.check_fits(found, 14, 1)
    with pytest.raises(ValueError, match="--image_size 32 --channels 3"):
        latency_profile.check_fits(found, 32, 3)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no file of nas\.profile"):
        latency_profile.read(tmp_path / "other.json")
    settings = cli.compose(TOOL, ["study=s", "data=digits", f"latency_profile={file}"])
    assert kept_profile(settings, {"profile": found.json}) == found
    with pytest.raises(ValueError, match="was begun with none"):
        kept_profile(settings, {"text": []})
    with pytest.raises(ValueError, match="was begun with another one"):
        kept_profile(settings, {"profile": profile.json})


def test_descriptors_of_a_network_counted_by_hand():
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5, bias=False))
    encoder.spec = encoders.Spec("by hand", 1, 4)
    found = descriptors(encoder)
    assert found == pytest.approx({"macs": (16 * 2 * 9 + 32 * 5) / 1e6, "parameters": (18 + 160) / 1e6, "layers": 4.0,
                                   "activations": (32 + 32 + 32 + 5) / 1e6})
    assert cost.memory(encoder) == pytest.approx((178 + 64) * 4 / 1e6)


def product(path: Path, side: int) -> Path:
    """An ONNX file of one product with side × side weights."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [side, side], np.ones((side, side), np.float32).tobytes(), raw=True)
    node = helper.make_node("MatMul", ["images", "w"], ["out"])
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", side]) for name in ("images", "out")]
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.skipif(not peak_memory.available(), reason="Linux says it of a process")
def test_peak_memory_holds_the_weights(tmp_path):
    small, large = (peak_memory.peak_memory(product(tmp_path / f"{side}.onnx", side), 1) for side in (256, 3072))
    assert large - small >= (3072**2 - 256**2) * 4 / 1e6 * 0.95


class Fixed(nn.Module):
    """Eight random projections of an 8-pixel image, twice.  scale: of the outputs"""

    dim = 8

    def __init__(self, scale: float = 1.0):
        super().__init__()
        torch.manual_seed(0)
        self.spec = encoders.Spec("fixed", 1, 8)
        self.conv, self.linear, self.scale = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(512, 8), scale

    def forward(self, x):
        return self.linear(torch.relu(self.conv(x)).flatten(1)) * self.scale


@pytest.fixture(scope="module")
def digits():
    return build_data(cli.compose(TOOL, ["study=s", "data=digits"]))


@pytest.mark.parametrize("logistic", [False, True])
def test_accuracy_in_int8_is_the_float_objective_of_other_features(digits, monkeypatch, logistic):
    """Where the float32 file stands in the INT8 one's place, the figure is that of the network's own features."""
    def write(module, folder, batches):
        file = int8_network.write_float32(module, folder)
        return int8_network.Files(file, Path(shutil.copy(file, folder / "int8.onnx")))

    monkeypatch.setattr(int8_network, "write", write)
    encoder = Fixed().eval()
    header = artifact.EncoderHeader(encoder.spec, digits.mean, digits.std, encoder.dim, {})
    found = deployment.int8_accuracy(encoder, header, digits, 500, logistic=logistic)
    rows = []
    for split in (digits.train.select(evenly(len(digits.train), 500)), digits.validation):
        images = images_of(split, torch.arange(len(split)), encoder.spec.geometry, 1)
        with torch.inference_mode():
            rows += [encoder(normalize_images(images, torch.tensor(digits.mean), torch.tensor(digits.std))), split.labels]
    expected = logistic_accuracy(*rows) if logistic else knn_accuracy(*rows, 10)
    assert found == pytest.approx(expected, abs=100 / len(digits.validation) * 1.01), "one image may fall on the other side"


def test_costs_in_int8_are_of_a_file_a_quarter_as_large_whose_features_agree(digits, tmp_path):
    encoder = Fixed().eval()
    header = artifact.EncoderHeader(encoder.spec, digits.mean, digits.std, encoder.dim, {})
    module = deployment.export_module_of(encoder, header)
    batches = int8_network.calibration(module, digits.train)
    assert sum(map(len, batches)) == min(int8_network.CALIBRATION, len(digits.train))
    assert all(np.array_equal(a, b) for a, b in zip(batches, int8_network.calibration(module, digits.train), strict=True))
    files = int8_network.write(module, tmp_path, batches)
    exact, int8 = (runtime.onnx_file(file)(batches[0]) for file in (files.float32, files.int8))
    assert 0 < np.abs(int8 - exact).max() < 0.05 * np.abs(exact).max()
    with torch.inference_mode():
        assert exact == pytest.approx(encoder(torch.from_numpy(batches[0])).numpy(), abs=1e-4)


def test_what_cannot_be_written_or_gives_no_numbers_is_not_quantizable(digits, tmp_path):
    encoder = Fixed(float("nan")).eval()
    module = deployment.export_module_of(encoder, artifact.EncoderHeader(encoder.spec, (0.5,), (0.5,), 8, {}))
    with pytest.raises(NotQuantizable) as error:
        int8_network.write(module, tmp_path, [module.example(4).numpy()])
    assert "\n" not in str(error.value)


def test_the_index_of_an_exported_front_has_table_and_intervals():
    rows = [FrontRow(7, "tiny 8 px", 80.0, 79.0, 1.5, 2.0, 0.1, 0.5, 81.0, 0.4, "static", 0.25, 80.5, 0.1),
            FrontRow(3, "small 8 px", 85.0, None, None, 4.0, 0.3, refused="INT8 static: loses 3 points")]
    index = FrontIndex("s", Path("x"), "knn", rows, (9,))
    table = [line for line in index.files["index.md"].splitlines() if line.startswith("| 7")]
    assert table == ["| 7 | 80 | 79 ± 1.5 | 2 | 0.1 | 0.5 | 81 | 0.4 | static | 0.25 | 80.5 | 0.1 | tiny 8 px |"]
    page = index.files["index.html"]
    assert "<svg" in page
    assert "INT8 static: loses 3 points" in page
    assert "trials 9" in page
    assert '"expected": 79.0' in index.files["index.json"]
