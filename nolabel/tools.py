"""The tools as functions. Settings become arguments of the command line and are understood, checked and typed as there."""
import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from core import cli, home, machine, origin, signals
from nolabel.checkout import ROOT

if TYPE_CHECKING:
    from deploy.export_report import ExportResult
    from distill.train import DistillResult
    from linear_eval.evaluate import EvaluateResult
    from linear_eval.finetune import FinetuneResult
    from nas.results import SearchResult
    from ssl.pretrain import PretrainResult

File = str | PathLike[str]


def pretrain(method: str = "simclr", data: File = "digits", **settings: Any) -> "PretrainResult":
    """Pretrain an encoder without labels, or resume the run.  data: a name of --data, or a folder of images

    Raises ValueError for a wrong setting; RunError where the run cannot continue; Stopped (a RunError) after Ctrl-C, once the
    state is saved: the same call resumes.
    """
    from ssl import pretrain as tool

    def run(given):
        planned = tool.prepared(given)
        tool.check(planned)
        return tool.pretrain(planned)

    return _run(tool.TOOL, {"method": method} | _data(tool.TOOL, data) | settings, run)


def evaluate(encoder: File, data: File = "digits", **settings: Any) -> "EvaluateResult":
    """Score an encoder by frozen features and fine-tuning, beside its baselines.  Raises as `pretrain`."""
    from linear_eval import evaluate as tool

    return _run(tool.TOOL, {"encoder": encoder} | _data(tool.TOOL, data) | settings, tool.evaluate, tool.check)


def finetune(encoder: File, data: File = "digits", **settings: Any) -> "FinetuneResult":
    """Train a classifier.  Raises as `pretrain`."""
    from linear_eval import finetune as tool

    return _run(tool.TOOL, {"encoder": encoder} | _data(tool.TOOL, data) | settings, tool.finetune, tool.check)


def distill(teacher: File, student: File, data: File = "digits", **settings: Any) -> "list[DistillResult]":
    """Train small encoders after a large one; students by comma.  → a result for each.  Raises as `pretrain`."""
    from distill import train as tool

    named = {"teacher": teacher, "student": student}
    return _run(tool.TOOL, named | _data(tool.TOOL, data) | settings, tool.distill, tool.check)


def search(study: str, data: File = "digits", **settings: Any) -> "SearchResult":
    """Search for encoders, in worker processes, or resume the study.  Raises as `pretrain`."""
    from nas import search as tool

    return _run(tool.TOOL, {"study": study} | _data(tool.TOOL, data) | settings, tool.search)


def export(encoder: File, data: File = "digits", **settings: Any) -> "ExportResult":
    """Write ONNX, INT8 and torch.export files, each measured.  Raises as `pretrain`."""
    from deploy import export as tool

    return _run(tool.TOOL, {"encoder": encoder} | _data(tool.TOOL, data) | settings, tool.export)


def _run(tool: cli.Tool, settings: Mapping[str, Any], run: Callable, check: Callable = lambda settings: None) -> Any:
    arguments = [a for name, value in _dotted(settings).items() for a in cli.argument(name, value)]
    given = cli.from_arguments(tool, arguments)
    if getattr(given, "devices", 1) > 1:
        raise ValueError(f"devices={given.devices}: from Python a run is one process; give the command "
                         f"python -m {tool.module}, which starts several")
    if note := home.prepare():
        print(note, file=sys.stderr)
    with signals.installed(), _found_by_children(), machine.called_as(tool.module, arguments):
        try:
            check(given)
            return run(given)
        except ValueError as error:
            raise ValueError(origin.located(tool, given, error)) from error


@contextlib.contextmanager
def _found_by_children() -> Iterator[None]:
    """Processes that a tool starts find the checkout's packages before the standard library's ssl."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def _data(tool: cli.Tool, data: File) -> dict[str, Any]:
    from vision.store import is_remote

    text = os.fspath(data)
    if text in (names := tool.choices("data")) or text.startswith("hf:"):
        return {"data": text}
    if not is_remote(text) and not cli.expand(text).is_dir():
        near = difflib.get_close_matches(text, names, 1, 0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"data={text}: is no folder, and none of {', '.join(names)}{hint}")
    return {"data": "folder", "data.root": text}


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}, "data__labels": "none"} → {"optim.lr": 1, "data.labels": "none"}; paths as text"""
    found = {}
    for name, value in settings.items():
        name = prefix + name.replace("__", ".")
        if isinstance(value, Mapping):
            found |= _dotted(value, f"{name}.")
        else:
            found[name] = os.fspath(value) if isinstance(value, PathLike) else value
    return found
