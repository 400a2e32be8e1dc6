"""A tracker that fails costs its figures, never the run."""
import errno
import os
import threading
import types

import pytest

from core import trackers


def run_of(folder):
    return types.SimpleNamespace(folder=folder, step=0, settings={"seed": 1})


class Failing(trackers.Tracker):
    def __init__(self, *failures: str):
        self.failures, self.calls = failures, []

    def send(self, step, figures):
        self.calls.append(step)
        if "send" in self.failures:
            raise ConnectionError("the server\nis away")

    def finish(self):
        self.calls.append("finish")
        if "finish" in self.failures:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("failures", "calls", "why"), [
    (["send", "finish"], [1], "the server is away"),
    (["finish"], [1, 2, "finish"], "No space left"),
])
def test_one_that_fails_is_noted_once_and_not_asked_again(capsys, failures, calls, why):
    tracker = Failing(*failures)
    tracker.log(1, {"loss": 1.0})
    tracker.log(2, {"loss": 1.0})
    tracker.close()
    assert tracker.calls == calls
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: Failing takes no figures")
    assert why in line
    assert "metrics.jsonl" in line


def test_one_that_cannot_be_opened_is_left_out(tmp_path, monkeypatch, capsys):
    def fail(run):
        raise RuntimeError("no such server")

    monkeypatch.setattr(trackers, "MLflow", fail)
    (left,) = trackers.listeners("mlflow,tensorboard", run_of(tmp_path))
    left.close()
    assert isinstance(left, trackers.TensorBoard)
    assert capsys.readouterr().err.startswith("note: mlflow takes no figures (no such server)")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's")
def test_tensorboard_on_a_full_disk_prints_a_line_and_no_threads_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    (tracker,) = trackers.listeners("tensorboard", run_of(tmp_path))
    tracker.log(1, {"loss": 1.0})
    tracker.writer.flush()
    (file,) = tmp_path.glob("events*")
    worker = tracker.writer.file_writer.event_writer._async_writer
    worker._writer._writer.close()
    worker._writer._writer = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 (the writer closes it)
    for step in range(2, 100):
        tracker.log(step, {"loss": 1.0})
        if tracker.failed:
            break
        worker._worker.join(0.1)
    tracker.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert "TensorBoard takes no figures" in line
    assert "No space left" in line
    assert file.exists()
