"""Trackers: listeners that take figures elsewhere. TensorBoard, Weights & Biases, MLflow, trackio; all in the run's folder
unless their own environment variables say otherwise, so that nothing leaves the machine unasked.

A resumed run is the same run there, and steps that are done again are not counted twice. A tracker that fails is
noted once and left out from then on: metrics.jsonl has every figure.
"""
import contextlib
import hashlib
import importlib
import importlib.util
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

KINDS = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}  # tracker → package
BRINGS = {"trackio": "uv run --group trackio"}  # tracker → what brings its package, in place of uv sync --group trackers


def check(text: str) -> None:
    """Raises ValueError for a tracker that is not known, or whose package is missing."""
    for name in names(text):
        if name not in KINDS:
            raise ValueError(f"trackers={text}: there are {', '.join(KINDS)}, by commas, and none")
        if importlib.util.find_spec(KINDS[name]) is None:
            raise ValueError(f"trackers={text}: {name} is not installed; "
                             f"{BRINGS.get(name, 'uv sync --group trackers')} brings it")


def names(text: str) -> list[str]:
    return [] if text == "none" else [part for part in text.split(",") if part]


def listeners(text: str, run) -> list:
    """Of a run (core/run.py) that begins or resumes after `run.step`; those that can be opened."""
    kinds = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow, "trackio": Trackio}
    opened = []
    for name in names(text):
        try:
            opened.append(kinds[name](run))
        except Exception as error:  # of these packages, their databases and the network
            _note_failure(name, error)
    return opened


def _note_failure(tracker: str, error: Exception) -> None:
    from core.run import log_line

    why = " ".join(str(error).split())[:200] or type(error).__name__
    log_line(f"note: {tracker} takes no figures ({why}); metrics.jsonl has them all")


class Tracker:
    """A listener that takes rows of figures. A kind of tracker defines `send` and `finish`."""

    failed = False

    def tick(self, step: int) -> None:
        pass

    def log(self, step: int, row: dict) -> None:
        figures = {name: v for name, v in row.items() if isinstance(v, (int, float)) and name != "step"}
        self._attempt(lambda: self.send(step, figures))

    def close(self) -> None:
        self._attempt(self.finish)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do it, unless something failed before; the first failure is noted."""
        if self.failed:
            return
        try:
            action()
        except Exception as error:  # of these packages, their databases and the network
            self.failed = True
            _note_failure(type(self).__name__, error)

    def send(self, step: int, figures: dict[str, float]) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        pass


class TensorBoard(Tracker):
    """Its files, in the run's folder, opened at the first row: its import takes as long as torch's."""

    def __init__(self, run):
        self.folder, self.purged, self.writer = str(run.folder), run.step + 1, None  # steps after it are done again

    def send(self, step: int, figures: dict[str, float]) -> None:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = _without_its_thread(threading.excepthook)
            self.writer = SummaryWriter(self.folder, purge_step=self.purged)
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _without_its_thread(hook: Callable) -> Callable:
    """The hook, silent about TensorBoard's own thread: what it fails with is raised by the next call, and noted in a line."""

    def quiet(failure) -> None:
        if type(failure.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
            hook(failure)

    return quiet


class WeightsAndBiases(Tracker):
    """Offline unless WANDB_MODE says otherwise (wandb sync sends it later); project WANDB_PROJECT, or nolabel."""

    def __init__(self, run):
        import wandb

        folder = Path(run.folder).resolve()
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "nolabel"), name=folder.name, dir=str(folder), config=run.settings,
            id=hashlib.sha256(str(folder).encode()).hexdigest()[:16], resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"), settings=wandb.Settings(silent=True, console="off"),
        )

    def send(self, step: int, figures: dict[str, float]) -> None:
        self.run.log(figures, step=step)

    def finish(self) -> None:
        self.run.finish()


class MLflow(Tracker):
    """In mlflow.db of the run's folder unless MLFLOW_TRACKING_URI says otherwise (`mlflow ui --backend-store-uri` opens it)."""

    def __init__(self, run):
        from mlflow import MlflowClient
        from mlflow.entities import Param

        from core.identity import identity

        folder = Path(run.folder).resolve()
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}"))
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "nolabel")
        experiment = self.client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self.client.create_experiment(name)
        known = self.client.search_runs([place], f"tags.folder = '{folder}'", max_results=1)
        if known:
            self.id = known[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
        else:
            self.id = self.client.create_run(place, run_name=folder.name, tags={"folder": str(folder)}).info.run_id
            params = {key: str(value)[:500] for key, value in identity(run.settings).items()}
            self.client.log_batch(self.id, params=[Param(key, value) for key, value in params.items()])
        self.done = max((m.step for m in self.client.get_metric_history(self.id, "loss")), default=0) if known else 0

    def send(self, step: int, figures: dict[str, float]) -> None:
        if step <= self.done:
            return  # sent before the run was interrupted
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in figures.items()])

    def finish(self) -> None:
        self.client.set_terminated(self.id)


class Trackio(Tracker):
    """In the folder `trackio` of the run unless TRACKIO_DIR names another one (`trackio show` opens that); elsewhere only where
    TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says so.
    """

    def __init__(self, run):
        from core.identity import identity

        folder = Path(run.folder).resolve()
        name = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"  # TRACKIO_DIR may be of many runs
        with contextlib.redirect_stdout(io.StringIO()):
            self.package = _trackio(folder / "trackio")
            self.run = self.package.init(
                "nolabel", name, config=identity(run.settings), resume="allow", embed=False, auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.done = self.run._next_step - 1  # the last step that it has, -1 of a new run

    def send(self, step: int, figures: dict[str, float]) -> None:
        if step > self.done:  # else sent before the run was interrupted
            self.run.log(figures, step=step)

    def finish(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self.package.finish()


def _trackio(folder: Path):
    """The package, imported anew with its files in this folder where TRACKIO_DIR is not set: it reads that once."""
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        del sys.modules[name]
    given = os.environ.get("TRACKIO_DIR")
    os.environ["TRACKIO_DIR"] = given or str(folder)
    try:
        return importlib.import_module("trackio")
    finally:
        if not given:
            del os.environ["TRACKIO_DIR"]
