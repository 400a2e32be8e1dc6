"""Trackers, each read by its own package's reader."""
import json
import os
import socket
import sqlite3
import types
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core import trackers


def run_of(folder: Path, step: int):
    return types.SimpleNamespace(folder=folder, step=step, settings={"method": {"temperature": 0.2}, "seed": 1})


def told(folder: Path, name: str, start: int, stop: int, loss: float) -> None:
    (tracker,) = trackers.listeners(name, run_of(folder, start))
    for step in range(start + 1, stop + 1):
        tracker.log(step, {"step": step, "loss": loss, "text": "nan"})
        tracker.tick(step)
    tracker.close()


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    """Steps that are done again replace those that the killed process wrote."""
    for start, stop, loss in ((0, 6, 1.0), (4, 8, 2.0), (0, 3, 3.0)):
        told(tmp_path, "tensorboard", start, stop, loss)
        seen = EventAccumulator(str(tmp_path))
        seen.Reload()
        if start == 4:
            assert [(e.step, e.value) for e in seen.Scalars("loss")] == [(s, 1 + (s > 4)) for s in range(1, 9)]
    assert [(e.step, e.value) for e in seen.Scalars("loss")] == [(s, 3) for s in range(1, 4)]


@pytest.mark.slow
def test_mlflow_has_one_run_a_folder_and_each_step_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    told(tmp_path, "mlflow", 0, 6, 1.0)
    told(tmp_path, "mlflow", 4, 8, 2.0)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("nolabel").experiment_id])
    assert run.data.params == {"method.temperature": "0.2", "seed": "1"}
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(s, 1 + (s > 6)) for s in range(1, 9)]


def test_wandb_stays_offline_and_goes_on_as_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    told(tmp_path, "wandb", 0, 3, 1.0)
    told(tmp_path, "wandb", 2, 4, 2.0)
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({path.name for path in files}) == 1  # the run's id
    assert b"temperature" in files[0].read_bytes()


def test_trackio_stays_here_has_one_run_a_folder_and_each_step_once(tmp_path, monkeypatch, capsys):
    pytest.importorskip("trackio", reason="needs uv run --group trackio")
    for name in ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)

    def connect(*address, **options):
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    for folder in ("one", "two"):  # two runs of a process, each in its own folder
        (tmp_path / folder).mkdir()
        told(tmp_path / folder, "trackio", 0, 6, 1.0)
        told(tmp_path / folder, "trackio", 4, 8, 2.0)
        (file,) = (tmp_path / folder / "trackio").glob("nolabel*.db")
        with sqlite3.connect(file) as database:
            rows = database.execute("SELECT run_name, run_id, step, metrics FROM metrics").fetchall()
            (config,) = database.execute("SELECT config FROM configs").fetchone()
        assert len({(run, id) for run, id, _, _ in rows}) == 1
        assert sorted((step, json.loads(text)["loss"]) for _, _, step, text in rows) == [(s, 1 + (s > 6)) for s in range(1, 9)]
        assert json.loads(config)["method.temperature"] == 0.2
    assert "TRACKIO_DIR" not in os.environ
    assert "Trackio" not in capsys.readouterr().out


@pytest.mark.parametrize(("said", "why"), [
    ("tensorbord", "trackers=tensorbord: there are tensorboard, wandb, mlflow, trackio, by commas, and none"),
    ("tensorboard,neptune", "there are tensorboard"),
])
def test_an_unknown_tracker_is_refused(said, why):
    with pytest.raises(ValueError, match=why):
        trackers.check(said)


def test_one_that_is_not_installed_is_refused_with_the_command(monkeypatch):
    monkeypatch.setitem(trackers.KINDS, "wandb", "no_such_package")
    monkeypatch.setitem(trackers.KINDS, "trackio", "no_such_package")
    for name, way in (("wandb", "uv sync --group trackers"), ("trackio", "uv run --group trackio")):
        with pytest.raises(ValueError, match=f"trackers={name}: {name} is not installed; {way} brings it"):
            trackers.check(name)
    trackers.check("none")
    trackers.check("tensorboard")
