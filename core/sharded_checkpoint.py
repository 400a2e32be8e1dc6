"""last/: the state of a sharded run (core/shard.py), which any number of processes can resume.

    last/<step>/shard-….safetensors  each process's rows of parameters and of the optimizer's state, by name
    last/<step>/rest.pt              step, identity, buffers, and whatever is one number: as last.pt has them

By torch.distributed.checkpoint in its safetensors format, which holds no pickle. A folder is written under a temporary name and
renamed when all have written; then the older one goes.
"""
import math
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from core import checkpoint
from core.errors import DiskFull, RunError
from core.processes import broadcast_object, gather_objects, is_main, is_rows, is_sharded

REST = "rest.pt"


def save(last: Path, method: nn.Module, optimizer: Optimizer, *, step: int, config: dict, extra: dict) -> None:
    """Collective.  last: the folder of such folders.  Raises RunError where a process cannot write there."""
    from torch.distributed import checkpoint as dcp

    target = last / str(step)
    temporary = Path(broadcast_object(str(last / f".{step}.{socket.gethostname()}.{os.getpid()}.tmp")))
    if is_main():
        temporary.mkdir(parents=True)
    gather_objects(None)  # it was made
    if not all(gather_objects(temporary.is_dir())):
        raise RunError(f"{last.parent} is not seen by every process, and with shard=true each writes its part of a save there; "
                       "give an out on a file system that all share")
    parameters = {f"method.{name}": p.detach() for name, p in method.named_parameters()}
    rows, small = {}, {}
    for number, name, _, state in _states(method, optimizer):
        rows |= {f"optimizer.{name}.{key}": value for key, value in state.items() if is_rows(value)}
        small[number] = {key: value for key, value in state.items() if not is_rows(value)}
    try:
        writer = dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        dcp.save(parameters | rows, storage_writer=writer)
    except dcp.CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        full = isinstance(first, OSError) and first.errno in checkpoint.FULL
        line = f"{target} cannot be written ({first}); what was saved before is untouched"
        raise (DiskFull if full else RunError)(line) from error
    if is_main():
        buffers = {name: value for name, value in method.state_dict().items() if f"method.{name}" not in parameters}
        state = {"state": small, "param_groups": optimizer.state_dict()["param_groups"]}
        checkpoint.save(temporary / REST, step=step, method=buffers, optimizer=state, config=config, extra=extra)
        shutil.rmtree(target, ignore_errors=True)  # of this very step
        temporary.rename(target)
        checkpoint.sync_folder(last)
        for older in last.iterdir():
            if older != target:
                shutil.rmtree(older, ignore_errors=True)
    gather_objects(None)  # it is there for all


def newest(last: Path) -> Path | None:
    """The folder of the last save, if there is one."""
    steps = [int(folder.name) for folder in last.glob("[0-9]*")] if last.is_dir() else []
    return last / str(max(steps)) if steps else None


def restore(folder: Path, state: dict[str, Any], method: nn.Module, optimizer: Optimizer) -> None:
    """Fill a method and its optimizer, sharded or not.  state: content of the folder's rest.pt

    Raises ValueError, RuntimeError or KeyError where they do not fit.
    """
    from torch.distributed import checkpoint as dcp

    reader = dcp.HuggingFaceStorageReader(str(folder))
    try:
        kept = reader.read_metadata().state_dict_metadata
    except (SafetensorError, OSError) as error:
        raise ValueError(f"a file of the folder cannot be read: {error}") from error
    wanted = {f"method.{name}": p.detach() for name, p in method.named_parameters()}
    if missing := sorted({name for name in kept if name.startswith("method.")} ^ {*wanted}):
        raise ValueError(f"{missing[0]} is in one of both alone")
    states = {int(number): dict(values) for number, values in state["optimizer"]["state"].items()}
    for number, name, p, _ in _states(method, optimizer):
        prefix = f"optimizer.{name}."
        rows = {key.removeprefix(prefix): torch.zeros_like(p) for key in kept if key.startswith(prefix)}
        if rows:
            states[number] = states.get(number, {}) | rows
            wanted |= {prefix + key: value for key, value in rows.items()}
    for name, value in wanted.items():
        if kept[name].size != value.shape:
            raise ValueError(f"{name} is {tuple(kept[name].size)} there and {tuple(value.shape)} here")
        if sum(math.prod(part.sizes) for part in kept[name].chunks) != value.numel():  # else torch would leave them as they are
            raise ValueError(f"rows of {name} are missing: the folder lacks a file")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each process reads its own rows
        try:
            dcp.load(wanted, storage_reader=reader, no_dist=True)
        except dcp.CheckpointException as error:  # no Exception
            raise ValueError(f"a file of the folder cannot be read: {next(iter(error.failures.values()))[0]}") from error
    method.load_state_dict(state["method"], strict=False)  # buffers
    optimizer.load_state_dict({"state": states, "param_groups": state["optimizer"]["param_groups"]})


def restore_whole(state: dict[str, Any], method: nn.Module, optimizer: Optimizer) -> None:
    """Fill a method, sharded or not, and its optimizer with the content of a last.pt. Raises as `restore`."""
    if is_sharded(method):
        from core.shard import divided

        parameters = dict(method.named_parameters())
        whole = state["method"]
        state["method"] = {n: divided(v, parameters[n]) if n in parameters else v for n, v in whole.items()}
        for number, _, p, _ in _states(method, optimizer):
            for key, value in (kept := state["optimizer"]["state"].get(number, {})).items():
                kept[key] = divided(value, p) if isinstance(value, Tensor) else value
    method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])


def _states(method: nn.Module, optimizer: Optimizer) -> Iterator[tuple[int, str, nn.Parameter, dict[str, Any]]]:
    """Of each parameter that is trained: its number in the optimizer, its name, itself, its state."""
    names = {id(p): name for name, p in method.named_parameters()}
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    yield from ((number, names[id(p)], p, optimizer.state.get(p, {})) for number, p in enumerate(trained))
