"""Words on the command line → one composed, typed, frozen configuration.

`--name value`, `--name=value` and `name=value` all mean Hydra's `name=value`; Hydra's groups, `--multirun` and launchers
work as ever. Nothing here imports torch, so `--help` and a mistyped word answer at once. Entry files read the
configuration; everything else receives objects and numbers.
"""
import dataclasses
import difflib
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MACHINE = ("device", "devices", "workers", "out", "resume", "log_every", "save_minutes", "data.root", "data.download")


def word(default: Any, meaning: str) -> Any:
    factory = {"default_factory": lambda: default} if isinstance(default, (list, dict)) else {"default": default}
    return field(**factory, metadata={"meaning": meaning})


@dataclass
class Optim:
    name: str = word("adamw", "lars | sgd | adamw")
    lr: float = word(1e-3, "for 256 images; `scaling` makes it the batch's")
    scaling: str = word("linear", "lr × batch/256 (linear), × √(batch/256) (sqrt), or as it is (none)")
    weight_decay: float = word(1e-4, "biases and norms are left out, unless decay_all")
    momentum: float = word(0.9, "of lars and sgd")
    betas: list[float] = word([0.9, 0.999], "of adamw")
    eta: float = word(0.001, "lars's trust coefficient")
    lars_clip: bool = word(False, "lars may only shrink a step (LARC)")
    decay_all: bool = word(False, "weight decay on biases and norms too")
    warmup: float = word(0.1, "share of the run over which lr rises linearly")
    warmup_lr: float = word(0.0, "where it rises from")
    end_lr: float = word(0.0, "where the cosine ends")


@dataclass
class Words:
    """What every tool that trains understands."""

    method: Any = word(None, "what to train with")
    data: Any = word(None, "what to train on")
    augment: Any = word(None, "how views are made")
    encoder: str = word("small", "small, any timm name, or an encoder.safetensors to start from")
    stem: str = word("auto", "auto (small up to 64 px) | small (3×3, stride 1, no pooling) | half (stride 2) | full")
    pretrained: bool = word(False, "start from timm's published weights")
    image_size: int = word(224, "pixels a side")
    epochs: float = word(100, "passes over the images")
    steps: int | None = word(None, "optimizer steps, instead of epochs")
    batch_size: int = word(256, "images a step, over all processes")
    accumulate: int = word(1, "pieces a process cuts its share of the batch into")
    clip: float | None = word(None, "largest norm of the gradient")
    optim: Optim = field(default_factory=Optim, metadata={"meaning": ""})
    precision: str = word("auto", "auto | fp32 | bf16; auto: bf16 where the device is faster with it")
    compile: bool = word(False, "torch.compile the encoder")
    seed: int = word(0, "of every random number")
    device: str = word("auto", "auto | cpu | cuda")
    devices: int = word(1, "processes, one a GPU; several on a CPU work too")
    workers: int = word(-1, "processes that decode image files; -1: one a core that is free")
    out: str = word("auto", "run folder; auto: runs/METHOD-DATA-… named by the configuration")
    resume: str = word("auto", "auto (go on where the folder's run stopped) | never")
    checks: int = word(10, "health checks in a run")
    stop_on_collapse: bool = word(True, "end a run whose features collapse")
    log_every: int = word(10, "steps between rows of metrics.jsonl")
    save_minutes: float = word(5, "minutes between saves, beside those at health checks")


@dataclass(frozen=True)
class Tool:
    """A command: where its configuration lies and which groups choose what."""

    module: str  # as in python -m
    primary: Path  # its yaml; the folder it lies in is searched first
    searched: tuple[Path, ...]  # further folders of groups
    summary: str

    def choices(self, group: str) -> list[str]:
        folders = [self.primary.parent, *self.searched]
        return sorted({p.stem for folder in folders for p in (folder / group).glob("*.yaml")})

    def groups(self) -> dict[str, list[str]]:
        return {g: found for g in ("method", "data", "augment") if (found := self.choices(g))}


def main(tool: Tool, run: Callable[[Any], int | None], argv: list[str] | None = None) -> int:
    """Understand the words, run, and turn a user's mistake into one line and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    if any(a in ("-h", "--help") for a in argv):
        print(help_text(tool))
        return 0
    try:
        words, multirun = overrides(argv)
        check_choices(tool, words)
        if multirun:
            return _multirun(tool, run, words)
        return run(compose(tool, words)) or 0
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def overrides(argv: list[str]) -> tuple[list[str], bool]:
    """Command-line arguments → Hydra's overrides, and whether they ask for several runs."""
    words, multirun, rest = [], False, list(argv)
    while rest:
        argument = rest.pop(0)
        if argument in ("-m", "--multirun"):
            multirun = True
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") and not equals:
            raise ValueError(f"'{argument}' is no setting; write name=value or --name value (see --help)")
        if not equals:
            follows = bool(rest) and not rest[0].startswith("--")
            value = rest.pop(0) if follows else "true"
        if not name:
            raise ValueError(f"'{argument}' names no setting; write name=value or --name value (see --help)")
        words.append(f"{name}={_quoted(value, multirun or '--multirun' in argv or '-m' in argv)}")
    return words, multirun


def _quoted(value: str, several: bool) -> str:
    """A value as Hydra's grammar takes it: paths with spaces, ~ or = are quoted, lists and numbers left alone."""
    safe = r"[\w./:+\-]*" if not several else r"[\w./:+\-,()*]*"
    if value == "" or value[0] in "[{'\"" or re.fullmatch(safe, value):
        return value or "''"
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def check_choices(tool: Tool, words: list[str]) -> None:
    for text in words:
        name, _, value = text.partition("=")
        known = tool.groups().get(name)
        for choice in value.split(","):
            if known and choice.strip("'") not in known:
                raise ValueError(f"{name}={value}: there {_near(choice.strip(chr(39)), known)}")


def _near(given: str, known: list[str]) -> str:
    near = difflib.get_close_matches(given, known, 1, 0.5)
    listed = f"are {', '.join(known)}"
    return f"{listed}; did you mean {near[0]}?" if near else listed


def compose(tool: Tool, words: list[str]):
    """The configuration of these words: typed, complete, read-only.  Raises ValueError in one line for a wrong word."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="words", node=Words)
    try:
        with initialize_config_dir(str(tool.primary.parent), version_base=None):
            config = hydra_compose(tool.primary.stem, [*words, _searchpath(tool)], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(tool, error, words)) from error
    return _finish(config, config.hydra.runtime.choices, OmegaConf)


def _finish(config, choices, OmegaConf):
    OmegaConf.set_struct(config, False)
    config.pop("hydra", None)
    config["chosen"] = {g: choices.get(g) for g in ("method", "data", "augment", "recipe") if choices.get(g)}
    try:
        OmegaConf.resolve(config)
    except Exception as error:
        raise ValueError(str(error).splitlines()[0]) from error
    OmegaConf.set_struct(config, True)
    OmegaConf.set_readonly(config, True)
    return config


def _searchpath(tool: Tool) -> str:
    return f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in tool.searched)}]"


def _multirun(tool: Tool, run: Callable, words: list[str]) -> int:
    """Hydra's own main: several runs, here or through a launcher such as hydra/launcher=submitit_slurm."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    ConfigStore.instance().store(name="words", node=Words)

    def job(config):
        code = run(_finish(OmegaConf.create(config), HydraConfig.get().runtime.choices, OmegaConf)) or 0
        if code:
            raise RuntimeError(f"this run ended with code {code}")

    sys.argv = [tool.module, "--multirun", *words, _searchpath(tool), "hydra/job_logging=none", "hydra/hydra_logging=none"]
    hydra.main(version_base=None, config_path=str(tool.primary.parent), config_name=tool.primary.stem)(job)()
    return 0


def _explain(tool: Tool, error: Exception, words: list[str]) -> str:
    """Hydra's message as one line that names the word, and the nearest right one."""
    text = str(error) + (f"\n{error.__cause__}" if error.__cause__ else "")
    if found := re.search(r"Could not override '([^']+)'", text):
        name = found[1]
        choices = [w for w in words if w.split("=")[0] in tool.groups()]
        known = list(_flat(compose(tool, choices))) if choices != words else []
        near = difflib.get_close_matches(name, known, 1, 0.6)
        hint = f"did you mean {near[0]}?" if near else "see --help"
        return f"there is no setting '{name}'; {hint}"
    if found := re.search(r"Error merging override (\S+)", text):
        reason = text.split("\n")[1] if "\n" in text else text
        return f"{found[1].rstrip('.')}: {reason.strip()}"
    return text.splitlines()[0]


def _flat(config, prefix: str = "") -> dict[str, Any]:
    out = {}
    for name, value in (config if isinstance(config, dict) else plain(config)).items():
        path = f"{prefix}{name}"
        out.update(_flat(value, f"{path}.") if isinstance(value, dict) else {path: value})
    return out


def identity(config) -> dict:
    """The configuration less what does not change the result: where it runs, where it writes."""
    flat = _flat(config)
    return {k: v for k, v in flat.items() if k not in MACHINE and not k.startswith("chosen.")}


def difference(old: dict, new: dict) -> list[str]:
    """Readable differences between two identities: "optim.lr: 0.4 → 0.3"."""
    return [
        f"{name}: {old.get(name, 'absent')} → {new.get(name, 'absent')}"
        for name in sorted({*old, *new})
        if old.get(name, "absent") != new.get(name, "absent")
    ]


def fingerprint(identity: dict) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def help_text(tool: Tool) -> str:
    lines = [tool.summary, "", "Words: --name value, --name=value or name=value.", ""]
    for group, found in tool.groups().items():
        lines.append(f"  {group:<22} {' | '.join(found)}")
    lines += ["", f"  {'word':<22} {'default':<12} meaning"]
    lines += _help_rows(Words, "", set(tool.groups()))
    lines += [
        "",
        "A method, data set or recipe has its own words and may set others: method.temperature, data.root,",
        "augment.crop=[0.2,1.0], …; a run's config.yaml lists them all with their values.",
        "Several runs: --multirun seed=0,1,2 (Hydra's sweeps; hydra/launcher=submitit_slurm on a cluster).",
    ]
    return "\n".join(lines)


def _help_rows(kind, prefix: str, skip: set[str]) -> list[str]:
    rows = []
    for f in dataclasses.fields(kind):
        if f.name in skip:
            continue
        default = f.default if f.default is not dataclasses.MISSING else f.default_factory()
        if dataclasses.is_dataclass(default):
            rows += _help_rows(type(default), f"{prefix}{f.name}.", skip)
        else:
            shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else default
            rows.append(f"  {prefix + f.name:<22} {shown!s:<12} {f.metadata['meaning']}")
    return rows


def plain(config) -> dict:
    """The configuration, or a part of it, as plain dicts and lists."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config)


def expand(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()
