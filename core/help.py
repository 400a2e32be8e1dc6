"""What --help prints of a tool's settings."""
import dataclasses


def help_text(summary: str, kind: type, groups: dict[str, list[str]]) -> str:
    lines = [summary, "", "Settings: --name value, --name=value or name=value.", ""]
    for group, found in groups.items():
        lines.append(f"  {group:<22} {' | '.join(found)}")
    lines += ["", f"  {'setting':<22} {'default':<12} meaning"]
    lines += _help_rows(kind, "", set(groups))
    lines += [
        "",
        "A method, data set or recipe has settings of its own and may set others: method.temperature, data.root,",
        "augment.crop=[0.2,1.0], …: --help method=simclr lists a choice's own.",
        "A file of settings: --recipe PATH.yaml (many in experiments/recipes); the command line wins.",
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
            shown = f"[{','.join(map(str, default))}]" if isinstance(default, list) else shown
            rows.append(f"  {prefix + f.name:<22} {shown!s:<12} {f.metadata['help']}")
    return rows
