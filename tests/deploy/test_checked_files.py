"""Files get their place once they were read again and compared; what fails is a row with its reason, never the end."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from core.errors import RunError
from deploy import accuracy, compare, latency, prune, quantize, runtime, versions
from deploy.export_module import ExportModule
from deploy.export_report import requirements_text
from deploy.pruning import prune_channels
from deploy.runtime import Runner
from vision import artifact, datasets, encoders, pruned

NAN, INF = float("nan"), float("inf")


def module() -> ExportModule:
    """An encoder that needs no exporter: 1,8,8 → 4 features, and the classifier behind them."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    encoder.spec, encoder.dim = encoders.Spec("test_resnet", 1, 8), 4
    header = artifact.EncoderHeader(encoder.spec, (0.5,), (0.25,), 4, {}, ("a", "b"))
    return ExportModule(artifact.Classifier(encoder, nn.Linear(4, 2)), header, False).eval()


# ---------------------------------------------------------------------------------------------------------------- comparing


@pytest.mark.parametrize(("found", "expected", "by"), [
    ([1, 2], [1, 2], 0), ([1, 2.5], [1, 2], 0.25), ([0, 0], [0, 0], 0), ([1, 0], [0, 0], INF), ([1, NAN], [1, 2], INF),
    ([1, 2], [1, NAN], INF), ([NAN, 2], [NAN, 2], INF), ([1, INF], [1, INF], INF), ([1, 2, 3], [1, 2], INF),
])
def test_what_is_not_finite_is_different(found, expected, by):
    assert compare.difference(np.float32(found), np.float32(expected)) == by


def test_every_output_is_compared():
    """A classifier's features stand behind its logits, and are what a gallery is searched by."""
    current = module()
    exact = runtime.eager(current)

    def wrong(value: float) -> Runner:
        return Runner(lambda images: [exact.outputs(images)[0], np.full_like(exact.outputs(images)[1], value)])

    assert runtime.distance(exact, exact, current) == 0
    assert runtime.distance(wrong(NAN), exact, current) == INF
    assert runtime.distance(wrong(0.0), exact, current) > 0.1
    fewer = Runner(lambda images: exact.outputs(images)[:1])
    assert runtime.distance(fewer, exact, current) == INF


# ------------------------------------------------------------------------------------------------------------------- export


@pytest.fixture
def exporters(monkeypatch):
    """The exporters replaced by ones that write a text and give torch's outputs, or those that a test sets."""
    how = dict.fromkeys(("onnxruntime", "torch.export", "torch.compile"))

    def make(name: str, export_module, path: Path | None = None) -> Runner:
        if path:
            path.write_text(name)
        if isinstance(how[name], Exception):
            raise how[name]
        exact = runtime.eager(export_module)
        return exact if how[name] is None else Runner(lambda images: [x * how[name] for x in exact.outputs(images)])

    current = module()
    monkeypatch.setattr(runtime, "write_onnx", lambda m, path, graph=None: make("onnxruntime", m, path))
    monkeypatch.setattr(runtime, "onnx_file", lambda path, threads=0: make("onnxruntime", current))
    monkeypatch.setattr(runtime, "write_program", lambda m, path: make("torch.export", m, path))
    monkeypatch.setattr(runtime, "compiled", lambda m: make("torch.compile", m))
    return current, how


@pytest.mark.parametrize(("name", "fault", "why"), [
    ("torch.compile", RuntimeError("No working C++ compiler found\nin g++"), "failed: RuntimeError: No working C++ compiler"),
    ("torch.export", IndexError("tuple index out of range"), "failed: IndexError: tuple index"),
    ("onnxruntime", ZeroDivisionError("division by zero"), "failed: ZeroDivisionError"),
    ("torch.export", NAN, "its outputs are not finite"), ("onnxruntime", 1.01, "differs from torch by 1.0e-02"),
    ("torch.compile", INF, "its outputs are not finite"),
])
def test_a_version_that_fails_is_refused_and_the_others_go_on(exporters, tmp_path, capsys, name, fault, why):
    current, how = exporters
    how[name] = fault
    found = versions.write_versions(SimpleNamespace(encoder="e", torchscript=False), tmp_path, current, 1)
    assert why in found.refused[name]
    assert "\n" not in found.refused[name]
    assert name not in found.files
    assert {"torch", *how} - {name} == set(found)
    left = {"onnxruntime": "model.onnx", "torch.export": "model.pt2"}
    left.pop(name, None)
    folder = tmp_path / "place"
    folder.mkdir()
    for old in ("model.onnx", "model.pt2", "model.int8.onnx"):
        (folder / old).write_text("of an earlier start")
    found.publish(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {file: kind for kind, file in left.items()}


def test_an_encoder_whose_outputs_are_not_finite_is_not_exported(exporters, tmp_path):
    current, _ = exporters
    with torch.no_grad():
        current.model.encoder[1].weight[0, 0] = NAN
    with pytest.raises(RunError, match="encoder=e: its outputs are not finite"):
        versions.write_versions(SimpleNamespace(encoder="e", torchscript=False), tmp_path, current, 1)


@pytest.mark.parametrize("faulty", ["accuracy", "interleaved"])
def test_int8_that_cannot_be_measured_is_refused(faulty, monkeypatch, tmp_path):
    """The float version is measured first; the fault hits the INT8 one."""
    def fails(*arguments):
        if faulty == "interleaved" or arguments[0] is int8:
            raise RuntimeError("no such kernel")
        return 90.0

    current, data, int8, exact = module(), datasets.load("digits", seed=0), Runner(np.copy), Runner(np.copy)
    monkeypatch.setattr(quantize.onnxruntime_int8, "write", lambda kind, source, out, batches: out.write_text("INT8"))
    monkeypatch.setattr(runtime, "onnx_file", lambda path, threads: int8 if path.name == "int8.onnx" else exact)
    monkeypatch.setattr(quantize, "accuracy", lambda *_: 90.0)
    monkeypatch.setattr(quantize, faulty, fails)
    settings = SimpleNamespace(int8="static", int8_steps=1, calibration=4, seed=0, most_lost=1.0, smaller=False)
    found = quantize.quantize(settings, current, data, tmp_path / "model.onnx", tmp_path / "int8.onnx", 1)
    assert found.kind is None
    assert found.refused["static"] == "could not be made: RuntimeError: no such kernel"
    assert not list(tmp_path.iterdir())


def test_a_score_that_is_no_number_passes_no_gate():
    settings = SimpleNamespace(most_lost=1.0, smaller=False)
    assert quantize.gate_failure(settings, 90.0, 89.5, 1.0, 2.0) is None
    found = quantize.first_passing(("static",), lambda kind: quantize.gate_failure(settings, 90.0, NAN, 1.0, 2.0))
    assert found.kind is None


def test_accuracy_is_not_told_from_outputs_that_are_not_finite():
    split = SimpleNamespace(__len__=lambda self: 2)
    broken = SimpleNamespace(preprocess=lambda *_: np.zeros((2, 1)), header=SimpleNamespace(spec=SimpleNamespace(name="x")))
    with pytest.raises(ValueError, match="encoder=x: its outputs are not finite"):
        accuracy.run_split(lambda images: np.full((2, 3), NAN), broken, split, torch.arange(2))


@pytest.mark.parametrize(("opset", "ir", "least"), [
    (11, 6, "1.0"), (13, 7, "1.6"), (18, 8, "1.14"), (18, 9, "1.16"), (20, 9, "1.17"), (18, 10, "1.18"), (21, 10, "1.18"),
    (22, 10, None), (18, 11, None),
])
def test_the_least_onnxruntime_is_that_of_the_official_table(tmp_path, opset, ir, least):
    graph = onnx.helper.make_graph([], "g", [], [])
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, ir_version=ir, opset_imports=opsets), tmp_path / "m.onnx")
    needs = runtime.onnx_requirements(tmp_path / "m.onnx")
    assert needs == {"ir": ir, "opsets": {"ai.onnx": opset, "com.microsoft": 1}, "onnxruntime": least}
    line = requirements_text(needs, "9.9")
    assert f"IR version {ir}, opset ai.onnx {opset}, com.microsoft 1" in line
    assert (f"{least} or newer" if least else "9.9, which wrote it") in line


# ------------------------------------------------------------------------------------------------------------------ latency


def test_a_framework_that_fails_is_left_out_of_the_table_with_its_reason(monkeypatch, tmp_path):
    def broken(*_):
        raise IndexError("list index out of range")

    monkeypatch.setattr(runtime, "write_onnx", broken)
    monkeypatch.setattr(runtime, "compiled", lambda m, device: Runner(broken))
    file = latency.write_onnx(module(), tmp_path / "model.onnx")
    assert file == "failed: IndexError: list index out of range"
    found, missing = latency.runners(["torch", "torch.compile", "onnxruntime"], "e", module(), file, 1, torch.device("cpu"))
    assert list(found) == ["torch"]
    assert missing == dict.fromkeys(("torch.compile of e", "onnxruntime of e"), file)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------------ pruning


class Grouped(nn.Sequential):
    """Convolutions of one, of two, of four groups, and depthwise."""

    def __init__(self) -> None:
        grouped, depthwise = nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 32, 1, groups=32)
        super().__init__(nn.Conv2d(3, 16, 1), grouped, nn.BatchNorm2d(32), depthwise)


def test_a_grouped_convolution_keeps_the_groups_that_pruning_left():
    narrow = Grouped()
    narrow[0] = nn.Conv2d(3, 8, 1)
    narrow[1] = nn.Conv2d(8, 24, 3, groups=2)  # weight 24,4,3,3: of how many groups its shape does not say
    narrow[2] = nn.BatchNorm2d(24)
    narrow[3] = nn.Conv2d(24, 24, 1, groups=24)
    shapes = pruned.shapes(narrow, Grouped())
    assert shapes == {"0": (8, 3, 1, 1), "1": (24, 4, 3, 3, 2), "2": (24,), "3": (24, 1, 1, 1)}
    again = pruned.reshape(Grouped(), shapes)
    again.load_state_dict(narrow.state_dict())
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(again.eval()(x), narrow.eval()(x))


@pytest.mark.long
@pytest.mark.parametrize("name", ["regnetx_002", "resnext50_32x4d"])
def test_pruned_grouped_convolutions_come_back_from_their_file(name, tmp_path):
    torch.manual_seed(0)
    encoder = encoders.create(name, 3, 32).eval()
    prune_channels(encoder, encoder, 0.7, 4)
    header = artifact.EncoderHeader(encoder.spec, (0.5,) * 3, (0.25,) * 3, encoder.dim, {})
    target = tmp_path / "encoder.safetensors"
    prune.write_checked(target, artifact.dumps(encoder, header, {}), encoder)
    again, _ = artifact.load(target)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), encoder(x))


@pytest.mark.parametrize("fault", ["cannot be loaded", "another encoder", "not finite"])
def test_a_pruned_file_that_does_not_come_back_replaces_nothing(fault, tmp_path, monkeypatch):
    torch.manual_seed(0)
    encoder = encoders.create("test_resnet", 3, 32).eval()
    header = artifact.EncoderHeader(encoder.spec, (0.5,) * 3, (0.25,) * 3, encoder.dim, {})
    target = tmp_path / "encoder.safetensors"
    target.write_text("what was there before")
    content = artifact.dumps(encoder, header, {})
    if fault == "cannot be loaded":
        content = content[:-8]
    elif fault == "another encoder":
        encoder = encoders.create("test_resnet", 3, 32).eval()
    else:
        with torch.no_grad():
            next(encoder.parameters())[0] = NAN
        content = artifact.dumps(encoder, header, {})
    with pytest.raises(RunError, match="was not written") as caught:
        prune.write_checked(target, content, encoder)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {target.name: "what was there before"}


def test_what_pruning_leaves_is_tried_before_it_is_called_a_success(monkeypatch):
    """A library that cuts a layer which files cannot describe, as LayerNorm."""
    import torch_pruning

    encoder = encoders.create("test_convnext", 3, 32).eval()
    name = next(name for name, m in encoder.named_modules() if isinstance(m, nn.LayerNorm))

    class Cuts:
        def __init__(self, *_, **__) -> None:
            pass

        def step(self) -> None:
            encoder.set_submodule(name, nn.LayerNorm(3))

    monkeypatch.setattr(torch_pruning.pruner, "BasePruner", Cuts)
    monkeypatch.setattr("vision.cost.macs", lambda e: 1.0 if isinstance(e.get_submodule(name), nn.LayerNorm)
                        and e.get_submodule(name).normalized_shape != (3,) else 0.0)
    with pytest.raises(ValueError, match=r"what no file can hold \(ValueError: .*cannot be pruned here\); use --kind"):
        prune_channels(encoder, encoder, 0.5, 8)
