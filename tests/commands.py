"""Run `python -m ssl.pretrain …` or another tool as a process of its own, in a second instead of ten.

Importing torch, timm and the rest takes most of a short run, so commands fork from a server that has imported them, and
has started nothing. `real` starts the command as a user does.
"""
import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A run of a second or two: 1,440 images of 8 px, no labels to score, timm's own test model.
SMALL = ["--data=synthetic", "+data.labels=none", "--image_size=8", "--encoder=test_resnet", "--batch_size=16"]
SMALL += ["--method.hidden=16", "--method.dim=8", "--evals=1", "--log_every=1", "--steps=8"]
LOADED = ("vision.build", "ssl.pretrain", "ssl.report", "ssl.method.moco_v2", "ssl.method.moco_v3", "hydra")
LOADED += ("linear_eval.scoring", "linear_eval.finetune", "linear_eval.evaluate", "distill.train", "distill.report")
LOADED += ("sklearn.linear_model", "sklearn.datasets", "torch.utils.tensorboard", "matplotlib.pyplot")
LOADED += ("vision.kernels", "PIL.JpegImagePlugin", "PIL.PpmImagePlugin", "PIL.GifImagePlugin", "PIL.BmpImagePlugin")


def shortened(values, quick: int = 1) -> list:
    """Values (of several names: tuples) to parametrize with: the first in every run of the tests, the others in long ones."""
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*row, marks=[pytest.mark.long] * (i >= quick)) for i, row in enumerate(rows)]


@dataclass
class Ended:
    """How a command ended: negative codes are signals."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line that it said."""
        lines = [line for line in self.err.strip().splitlines() if not line.startswith("plan: ")]
        assert len(lines) == 1, self.err
        return lines[0]


class Started:
    """A command that runs."""

    def __init__(self, words: list[str], environment: dict[str, str], folder: Path, module: str):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.pid = _ask(words=words, environment=environment, folder=str(folder), module=module)

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def until(self, path: Path, rows: int = 1, timeout: float = 60) -> None:
        """Wait until a file (metrics.jsonl) has so many lines."""
        deadline = time.monotonic() + timeout
        while not path.exists() or path.read_text(errors="replace").count("\n") < rows:
            assert time.monotonic() < deadline, f"{path} has no {rows} lines: {self.said}"
            assert _ask(ended=self.pid) is None, f"ended before {path} had {rows} lines: {self.said}"
            time.sleep(0.005)

    @property
    def said(self) -> str:
        return (self.folder / "err").read_text()

    def wait(self, timeout: float = 300) -> Ended:
        deadline = time.monotonic() + timeout
        while (code := _ask(ended=self.pid)) is None:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f"still running after {timeout} s: {self.said}")
            time.sleep(0.01)
        return Ended(code, (self.folder / "out").read_text(), self.said)


def start(*words, logs: Path, module: str = "ssl.pretrain", **environment: str) -> Started:
    return Started([str(w) for w in words], environment, Path(logs), module)


def run(*words, logs: Path, module: str = "ssl.pretrain", **environment: str) -> Ended:
    return start(*words, logs=logs, module=module, **environment).wait()


def together(*words, logs: Path, size: int = 2, module: str = "ssl.pretrain", **environment: str) -> list[Started]:
    """The command as torchrun would start it, `size` processes with their ranks in the environment."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(size)]
    shared = environment | shared
    return [start(*words, logs=Path(logs, str(r)), module=module, **shared, **rank) for r, rank in enumerate(ranks)]


def real(*words, module: str = "ssl.pretrain", **options) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen([sys.executable, "-m", module, *map(str, words)], **pipes | options)


# ---- the server ---------------------------------------------------------------------------------------------------

_server: subprocess.Popen | None = None


def _ask(**question):
    global _server
    if _server is None:
        command = [sys.executable, __file__]
        _server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        atexit.register(_server.stdin.close)  # the server ends with its input
    _server.stdin.write(json.dumps(question) + "\n")
    _server.stdin.flush()
    return json.loads(_server.stdout.readline())


def _serve() -> None:
    questions, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.path[0] = str(ROOT)
    for name in LOADED:
        importlib.import_module(name)

    ended: dict[int, int] = {}
    for line in questions:
        question = json.loads(line)
        if pid := question.get("ended"):
            if pid not in ended and (found := os.waitpid(pid, os.WNOHANG))[0]:
                ended[pid] = os.waitstatus_to_exitcode(found[1])
            answer = ended.get(pid)
        elif not (answer := os.fork()):
            _be(**question)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _be(words: list[str], environment: dict[str, str], folder: str, module: str) -> None:
    """Become the command. Never returns."""
    code = 1
    try:
        for number, name in enumerate(("out", "err"), 1):
            os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(environment)
        os.chdir(environment.get("WORKING_FOLDER", "."))
        if limit := environment.get("LARGEST_FILE"):
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        sys.argv = [f"{module.replace('.', '/')}.py", *words]
        sys.path[1:1] = filter(None, [environment.get("PYTHONPATH")])
        code = importlib.import_module(module).main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


if __name__ == "__main__":
    _serve()
