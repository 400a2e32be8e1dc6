"""A study's end: its front is measured, reported and exported. The table trains, and stand-ins time and export."""
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import ROOT

import deploy.export
from core import cli
from core.errors import RunError
from deploy.export_report import VersionRow
from nas import device_timing, export, report, study
from nas import store as store_module
from nas.deployment_costs import DeploymentCosts
from nas.device_timing import Timed
from nas.latency_profile import FigureModel, LatencyProfile
from nas.remeasure import remeasure
from nas.scheduler import Worker
from nas.store import TrialStore
from nas.tabular import Table
from tests.nas.table_with_encoders import TableWithEncoders
from tests.nas.test_scheduler import in_memory  # noqa: F401
from vision import cost

OPTIONS = ["study=study", "data=digits", "space=tabular", "epochs=9", "rungs=1", "trials=12", "sampler=random"]
OPTIONS += ["objectives='knn,int8_latency'", "limit='int8_latency:4.5'", "interval=3600"]
KEPT = {"objectives": "knn,int8_latency", "limit": "int8_latency:4.5", "data.name": "digits", "epochs": 9.0, "rungs": 1}


class Deployed(TableWithEncoders):
    """Latency is 1 + multiply-adds in millions."""

    def deployment_costs(self, candidate, heartbeat):
        macs = self.table.rows[candidate["hash"]]["macs"]
        return DeploymentCosts({"int8_latency": 1 + macs, "int8_size": 0.1}, {"int8_latency": "by a stand-in"})


class Clock:
    """Latency is 2 + twice the multiply-adds in millions."""

    calls = 0

    def __init__(self, names, place, channels, size):
        assert (names, channels) == (["int8_latency"], 1)

    def __call__(self, encoder):
        Clock.calls += 1
        ms = 2 + 2 * cost.macs(encoder)
        return {"int8_latency": Timed(ms, ms, 1.0)}


@pytest.fixture
def ended(in_memory, tmp_path, monkeypatch):  # noqa: F811
    """(settings, store, config) of a study whose trials are over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store_module, "open_existing", lambda address, name: in_memory[address])
    monkeypatch.setattr(device_timing, "DeviceTimer", Clock)
    monkeypatch.setattr(Clock, "calls", 0)
    settings = cli.compose(study.TOOL, OPTIONS)
    config = study.search_config(settings)
    store = TrialStore("study", "one", config.objectives, KEPT)
    table = Table(ROOT / "experiments" / "tabular" / "fashion_mnist.json")
    Worker(store, config, Deployed(table, 0)).run()
    return settings, store, config


def test_a_profile_of_another_machine_is_not_taken_for_a_measurement(ended, capsys):
    settings, store, config = ended
    model = FigureModel(1.0, 0.0, {}, {}, {}, 1.0, 2.0, 1.0, 1.0)
    profile = LatencyProfile({"int8_latency": model}, "tabular", 8, 1, 1, "cpu", {"cpu": "another CPU", "gpu": None})
    store.set_plan({"profile": profile.json, "text": [profile.text]})
    remeasure(settings, store, config)
    assert Clock.calls == 0
    out = capsys.readouterr()
    assert "latency_profile is of another CPU, and this is another machine" in out.out + out.err
    assert "is predicted, not measured: limits on it may not hold" in report.write(store, config).summary


@pytest.mark.slow
def test_the_front_is_exported_but_for_what_fails(ended, monkeypatch):
    settings, store, config = ended
    remeasure(settings, store, config)
    front = report.write(store, config).front
    for r in front:
        file = r.run_folders("study")[0] / "encoder.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"an encoder")
    seen = []

    def stand_in(given):
        seen.append((given.encoder, given.out, given.data.name, given.smaller, given.calibration))
        if len(seen) == 1:
            raise RunError("no memory")
        rows = {"torch": VersionRow(80.0, 3.0, 3.0, 1.0, 1.0, None),
                "onnxruntime": VersionRow(80.0, 2.0, 2.0, 1.0, 1.0, "m.onnx"),
                "INT8 channel": VersionRow(79.0, 1.0, 1.0, 1.0, 0.25, "m.int8.onnx")}
        return SimpleNamespace(rows=rows, refused={"INT8 static": "loses 3 points"})

    monkeypatch.setattr(deploy.export, "export", stand_in)
    index = export.export_front(cli.compose(export.TOOL, ["study=study", "storage=one", "out=exported", "calibration=64"]))
    assert len(index.rows) == len(front)
    assert {Path(out).name for _, out, *_ in seen} == {f"{r.number:05d}" for r in front}
    assert {call[2:] for call in seen} == {("digits", True, 64)}
    failed, *others = index.rows
    assert (failed.refused, failed.latency, failed.own) == ("no memory", None, next(
        r.figures["knn"] for r in front if r.number == failed.trial))
    assert {(r.latency, r.int8, r.int8_latency, r.int8_accuracy, r.int8_size, r.refused) for r in others} <= {
        (2.0, "channel", 1.0, 79.0, 0.25, "INT8 static: loses 3 points")}
    assert {path.name for path in Path("exported").iterdir()} >= {"index.md", "index.html", "index.json"}
