"""Which process of how many this one is, from the variables of torchrun or SLURM. Imports no torch."""
import os
import re

LOWEST_PORT, PORTS = 10_000, 20_000  # of SLURM's steps: below 32768, where Linux gives ports to whoever asks for any


def environment() -> tuple[int, int, int, int] | None:
    """(rank, world size, local rank, local size) that torchrun or srun gave this process; None when it stands alone.

    Raises ValueError for variables that make no sense: a process that takes itself for another would wait for hours.
    """
    if os.environ.get("RANK") or _number("WORLD_SIZE", 1, "torchrun") > 1:
        return _torchrun()
    if _number("SLURM_STEP_NUM_TASKS", 1, "srun") > 1:  # a task of an srun step; a bare batch script has no step
        return _srun()
    return None


def check_devices(devices: int) -> None:
    """Raise ValueError where --devices contradicts the processes that were started from outside."""
    if devices > 1 and (found := environment()) and devices not in (found[1], found[3]):
        whose = "torchrun" if os.environ.get("RANK") else "srun"
        names = "RANK, WORLD_SIZE" if whose == "torchrun" else "SLURM_STEP_*"
        size = f"{found[1]} process{'es' * (found[1] > 1)}"
        raise ValueError(f"devices={devices}: {whose} started {size} ({names} are set); leave devices out, or unset them")


def _torchrun() -> tuple[int, int, int, int]:
    for there, missing in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if os.environ.get(there) and not os.environ.get(missing):
            raise ValueError(f"{there}={os.environ[there]} without {missing}: set both, as torchrun does, or unset {there}")
    size = _number("WORLD_SIZE", 1, "torchrun", least=1)
    rank = _number("RANK", 0, "torchrun", below=("WORLD_SIZE", size))
    if size > 1 and not os.environ.get("LOCAL_RANK"):
        raise ValueError(f"RANK={rank} and WORLD_SIZE={size} without LOCAL_RANK: set it too, as torchrun does, or unset them")
    local_size = _number("LOCAL_WORLD_SIZE", 1, "torchrun", least=1)
    here = ("LOCAL_WORLD_SIZE", local_size) if os.environ.get("LOCAL_WORLD_SIZE") else ("WORLD_SIZE", size)
    return rank, size, _number("LOCAL_RANK", 0, "torchrun", below=here), local_size


def _srun() -> tuple[int, int, int, int]:
    size = _number("SLURM_STEP_NUM_TASKS", 1, "srun")
    rank = _number("SLURM_PROCID", None, "srun", below=("SLURM_STEP_NUM_TASKS", size))
    counts = tasks_per_node(os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if "SLURM_HET_SIZE" in os.environ:  # steps of several components count their nodes in ways of their own
        return rank, size, _number("SLURM_LOCALID", None, "srun"), counts[0]
    if sum(counts) != size:
        text = os.environ["SLURM_STEP_TASKS_PER_NODE"]
        raise ValueError(f"SLURM_STEP_TASKS_PER_NODE={text} is not the {size} tasks of SLURM_STEP_NUM_TASKS: start with srun")
    node = 0
    if len(set(counts)) > 1:
        node = _number("SLURM_NODEID", None, "srun", below=("number of nodes", len(counts)))
    return rank, size, _number("SLURM_LOCALID", None, "srun", below=("tasks of this node", counts[node])), counts[node]


def _number(name: str, default: int | None, whose: str, least: int = 0, below: tuple[str, int] | None = None) -> int:
    """A whole number of the environment.  Raises ValueError"""
    text = os.environ.get(name) or ("" if default is None else str(default))
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or int(text) < least:
        what = f"{name}={text}" if text else f"{name} is missing"
        raise ValueError(f"{what}: must be a whole number from {least}, as {whose} sets it; start with {whose}, or unset it")
    if below and int(text) >= below[1]:
        raise ValueError(f"{name}={text}: must be less than {below[1]} ({below[0]}); start with {whose}, or unset it")
    return int(text)


# ---- SLURM's notations ----------------------------------------------------------------------------------------------


def tasks_per_node(text: str) -> list[int]:
    """"8(x2),4" → [8, 8, 4].  Raises ValueError"""
    counts = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part, re.ASCII)
        if not found:
            raise ValueError(f"SLURM_STEP_TASKS_PER_NODE={text}: must be like 8(x2),4, as srun sets it")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def first_host(nodes: str) -> str:
    """"gpu[03-05,9]-ib,login" → "gpu03-ib". Needs no scontrol, which containers lack.  Raises ValueError"""
    found = re.match(r"(?:[^\[\],\s]+|\[[^\[\]\s]+\])+", nodes)
    host = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", found[0]) if found else ""
    if not host or not re.fullmatch(r"[\w.-]+", host) or nodes.count("[") != nodes.count("]"):
        raise ValueError(f"SLURM_STEP_NODELIST={nodes}: no list of nodes such as gpu[03-05]; set MASTER_ADDR to the first one")
    return host


def slurm_rendezvous() -> tuple[str, int]:
    """(the host of rank 0, a port of this step's own): the first node of the step, which may be any part of its job.

    Raises ValueError.
    """
    if not os.environ.get("SLURM_JOB_ID"):
        raise ValueError("RANK and WORLD_SIZE without MASTER_ADDR: set it and MASTER_PORT, as torchrun does, or unset them")
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST") or ""
    job = _number("SLURM_JOB_ID", None, "srun")
    step = _number("SLURM_STEP_ID", _number("SLURM_STEPID", 0, "srun"), "srun")
    return first_host(nodes), LOWEST_PORT + job % (PORTS // 100) * 100 + step % 100
