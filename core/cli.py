"""The command line → one typed, complete, read-only settings object (core/settings.py).

`--name value`, `--name=value` and `name=value` all mean Hydra's `name=value`; its groups, `--multirun` and launchers
work as ever, and `--cfg` prints what was understood. Nothing here imports torch, so `--help` and a mistyped setting answer
at once. Only this file knows how settings are written as text; `derive` changes them for another tool or run, and
core/settings_file.py hands them to another process.
"""
import difflib
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, get_origin

from core import composition, home, recipe, signals, terminal
from core.composition import KINDS, Tool
from core.errors import RunError
from core.help import help_text
from core.home import expand  # noqa: F401, for those who have paths from settings
from core.origin import located, one_line
from core.quoting import quoted, unquoted
from core.recipe import RecipeFile
from core.setting_fields import Origin, Settings
from core.settings import (
    PretrainSettings,
    document,  # noqa: F401, for those who write settings down
    flat,
    marked,
    plain,  # noqa: F401, for tools
    texts_of,
    types_of,
)
from core.settings_file import FLAG, load, save, yaml_text  # noqa: F401, for tools

NAME = r"(\+\+?|~)?[A-Za-z_][\w./@:]*"
FLAGS = {"-m": "multirun", "--multirun": "multirun", "-c": "cfg", "--cfg": "cfg"}
HELP = ("-h", "--help")
_noted: set[str] = set()  # former names that a note was printed about
STOPPED = (75, 130)  # exit codes of a run that a signal stopped


def main(tool: Tool, run: Callable[[Any], int | None], argv: list[str] | None = None) -> int:
    """Parse the command line, run, and turn a user's mistake into one line and exit code 2, a signal into one and code 75."""
    terminal.protect()
    with signals.installed(tool.module):
        _place(tool)
        try:
            return _main(tool, run, sys.argv[1:] if argv is None else argv)
        except signals.StopRequest as stop:
            signals.say(stop)
            return stop.code
        except KeyboardInterrupt:
            return 130


def _place(tool: Tool) -> None:
    if any(field.name == "optim" for field in fields(tool.settings)):  # it trains
        signals.place(" before the first step; nothing was lost: the same command starts again")


def _main(tool: Tool, run: Callable[[Any], int | None], argv: list[str]) -> int:
    file, settings = None, None
    try:
        if any(a in HELP for a in argv):
            print(_help(tool, [a for a in argv if a not in HELP]))
            return 0
        if argv[:1] == [FLAG] and len(argv) == 2:  # a child of one of our processes
            home.prepare()
            settings = load(tool, argv[1])
            return run(settings) or 0
        overrides, flags = parse(argv, tool.settings)
        overrides, file = with_recipe(tool, overrides)
        check_choices(tool, overrides)
        if "cfg" not in flags and (note := home.prepare()):
            print(note, file=sys.stderr, flush=True)
        if "multirun" in flags:
            return _multirun(tool, run, overrides, file)
        settings = compose(tool, overrides, file)
        if "cfg" in flags:
            print(yaml_text(settings), end="")
            return 0
        return run(settings) or 0
    except ValueError as error:
        return _refuse(located(tool, settings, error) if settings else one_line(error, file))
    except RunError as error:
        signals.say("error: " + " ".join(str(error).split()))
        return error.code


def _help(tool: Tool, argv: list[str]) -> str:
    """Of the tool, or of the choices that are named beside --help, as in `--help method=simclr`."""
    overrides = [override for override in parse(argv, tool.settings)[0] if override.partition("=")[0] in tool.groups()]
    check_choices(tool, overrides)
    explained = "\n\n".join(tool.explained(*pair) for pair in texts(overrides).items())
    return explained or help_text(tool.summary, tool.settings, tool.groups())


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def parse(argv: list[str], known: type = PretrainSettings) -> tuple[list[str], set[str]]:
    """Command-line arguments → Hydra's overrides, and which of the flags multirun and cfg are among them."""
    flags = {FLAGS[a] for a in argv if a in FLAGS}
    overrides, rest = [], list(argv)
    while rest:
        argument = rest.pop(0)
        if argument in FLAGS:
            if FLAGS[argument] == "cfg" and rest[:1] == ["job"]:
                rest.pop(0)
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_") if argument.startswith("--") else name  # --image-size is --image_size
        name = _today(name, known)
        name = f"{name}.on" if f"{name}.on" in types_of(known) else name  # --adapt is --adapt.on
        if not re.fullmatch(NAME, name) or not (equals or argument.startswith("--")):
            raise ValueError(f"'{argument}' is no setting; write name=value or --name value (see --help)")
        alone = types_of(known).get(name) is bool and "=" in "".join(rest[:1])  # --compile +data.labels=none
        if not equals and rest and not rest[0].startswith("--") and not alone:
            value = rest.pop(0)
        elif not equals:
            if name in texts_of(known) or types_of(known).get(name, bool) is not bool:
                raise ValueError(f"--{name} needs a value: --{name} value (see --help)")
            value = "true"
        if name == "data" and value.startswith("hf:"):
            overrides.append("data=hf")
            name, value = "data.root", value.removeprefix("hf:")
        if "multirun" not in flags and get_origin(types_of(known).get(name)) is list:
            value = value if re.fullmatch(r"\[.*\]|null", value, re.DOTALL) else f"[{value}]"  # --parts knn,linear
        override = f"{name}={value}"
        hydras = quoted(name, value, name in texts_of(known), "multirun" in flags)
        overrides.append(override if recipe.path_of(name, value) else f"{name}={hydras}")
    return overrides, flags


def _today(name: str, known: type) -> str:
    """The setting's name; of a former one, today's, with a note."""
    former = {once: new for new, once in marked(known, "once").items() if once}
    sign, bare = re.fullmatch(r"([+~]*)(.*)", name, re.DOTALL).groups()
    shorter = {short: new for new, short in marked(known, "short").items()}
    if bare not in former:
        return sign + shorter.get(bare, bare)
    if bare not in _noted:
        _noted.add(bare)
        print(f"note: {bare} is now called {former[bare]}", file=sys.stderr, flush=True)
    return sign + former[bare]


def from_arguments(tool: Tool, argv: list[str]) -> Any:
    """→ tool.settings, from arguments of a command line.  Raises ValueError in one line for a wrong one."""
    file = None
    try:
        overrides, file = with_recipe(tool, parse(argv, tool.settings)[0])
        check_choices(tool, overrides)
        return compose(tool, overrides, file)
    except ValueError as error:
        raise ValueError(one_line(error, file)) from error


def with_recipe(tool: Tool, overrides: list[str]) -> tuple[list[str], RecipeFile | None]:
    """`recipe=PATH.yaml` becomes the file's overrides, before the others and less those that the command line repeats."""
    last = next((override for override in reversed(overrides) if override.startswith("recipe=")), "=")
    if not (path := recipe.path_of(*last.split("=", 1))):
        return overrides, None
    overrides = [override for override in overrides if not override.startswith("recipe=")]
    repeated = {override.partition("=")[0].lstrip("+") for override in overrides}
    try:
        content, lines = recipe.read(path)
        found, _ = parse(content, tool.settings)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("recipe=") else f"{path}: {error}") from error
    found = [override for override in found if override.partition("=")[0] not in repeated]
    names = [override.partition("=")[0] for override in found]
    if "recipe" in names:
        raise ValueError(f"{path}: recipe: a recipe names no other")
    lines = {name: lines.get(name.lstrip("+~"), 1) for name in names}
    return [*(["recipe='null'"] if tool.choices("recipe") else []), *found, *overrides], RecipeFile(path, lines)


def check_choices(tool: Tool, overrides: list[str]) -> None:
    known = tool.groups() | ({"recipe": [*found, "null", "a file PATH.yaml"]} if (found := tool.choices("recipe")) else {})
    for name, _, value in (text.partition("=") for text in overrides):
        for choice in value.split(",") if name in known else ():
            choice = choice.strip("'\" ")
            if choice not in known[name]:
                near = difflib.get_close_matches(choice, known[name], 1, 0.5)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"{name}={choice}: there are {', '.join(known[name])}{hint}")


def compose(tool: Tool, overrides: list[str], file: RecipeFile | None = None) -> Any:
    """→ tool.settings, complete.  overrides: overrides in Hydra's grammar.  Raises ValueError in one line for a wrong one.

    file: a recipe file, some of whose settings are among them.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return composition.composed(tool, overrides, _origin(overrides, file))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(tool, error, overrides)) from error


def _origin(overrides: Collection[str], file: RecipeFile | None) -> Origin:
    return Origin(tuple(overrides), file.path, dict(file.lines)) if file else Origin(tuple(overrides))


def _multirun(tool: Tool, run: Callable, overrides: list[str], file: RecipeFile | None) -> int:
    """Hydra's own main: several runs, here or through a launcher such as hydra/launcher=submitit_slurm.

    One that fails lets the others run; one that is stopped ends them all. The exit code is the worst.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from core import sweep

    composition.register(tool)
    codes = [0]

    def one(config) -> int:
        hydra_config, composed = HydraConfig.get(), None
        _place(tool)
        try:
            origin = _origin(hydra_config.overrides.task, file)
            composed = composition.finish(tool, OmegaConf.create(config), hydra_config.runtime.choices, origin)
            return run(composed) or 0
        except ValueError as error:
            return _refuse(located(tool, composed, error) if composed else one_line(error, file))

    def job(config):
        code = sweep.run_in_job(partial(one, config)) if sweep.in_job() else one(config)
        if code in STOPPED:
            raise SystemExit(code)
        if code and sweep.in_job():
            raise RuntimeError(f"this run ended with code {code}")  # so that a launcher elsewhere knows
        codes.append(code)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # the exception itself, for one line of our own
    sys.argv = [tool.module, "--multirun", *overrides, *sweep.defaults(texts(overrides), tool.module)]
    try:
        with sweep.submitted():
            hydra.main(version_base=None, config_path=str(tool.primary.parent), config_name=tool.primary.stem)(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(tool, error, overrides)) from error
    return max(codes)


def _explain(tool: Tool, error: Exception, overrides: list[str]) -> str:
    """Hydra's message as one line that names the setting, and the nearest right one."""
    text = str(error) + (f"\n{error.__cause__}" if error.__cause__ else "")
    if found := re.search(r"Could not override '([^']+)'", text):
        name = found[1]
        groups = [w for w in overrides if w.split("=")[0] in tool.groups() and "," not in w]
        known = [*tool.groups(), *types_of(tool.settings), *(flat(compose(tool, groups)) if groups != overrides else ())]
        near = difflib.get_close_matches(name, known, 1, 0.6)
        return f"there is no setting '{name}'; {f'did you mean {near[0]}?' if near else 'see --help'}"
    for name, _, value in (w.partition("=") for w in overrides):
        if f"{name}={value}" in text and name in types_of(tool.settings):
            return f"{name}={value}: must be {KINDS.get(types_of(tool.settings)[name], 'a list like [0.9,0.999]')}"
        if name == "optim":
            return f"optim={value}: optim has settings of its own; use --optim.name {value}"
    return text.splitlines()[0]


# ---- settings as other forms -------------------------------------------------------------------------------------------


def explicit(settings: Settings) -> dict[str, str]:
    """Dotted setting → its text, of all that the command line and a recipe file set."""
    return {name: value for name, value in texts(settings.origin.overrides).items() if name != "recipe"}


def texts(overrides: Collection[str]) -> dict[str, str]:
    """Overrides → dotted setting → its text, without quotes."""
    return {_name(override): override.partition("=")[2].strip("'\"") for override in overrides}


def _name(override: str) -> str:
    """The dotted setting that an override is about."""
    return override.partition("=")[0].lstrip("+~")


def derive(tool: Tool, settings: Settings, drop: Collection[str] = (), keep: Collection[str] | None = None,
           changes: Mapping[str, Any] | None = None) -> Any:
    """The settings of a tool from those of another run: what was set explicitly there, less `drop`, with `changes`.

    drop, keep: settings that are left out, or alone kept; a group's name stands for all in it. changes: dotted setting → value.
    Raises ValueError as `compose`.
    """
    changes = changes or {}

    def stays(override: str) -> bool:
        name = _name(override)
        among = {name, name.partition(".")[0]}
        return name not in changes and not among & {*drop} and (keep is None or bool(among & {*keep}))

    kept = [override for override in settings.origin.overrides if stays(override)]
    overrides = [*kept, *(_override(name, value) for name, value in changes.items())]
    lines = {name: line for name, line in settings.origin.lines.items() if name not in changes}
    return compose(tool, overrides, RecipeFile(settings.origin.file, lines))


def _override(name: str, value: Any) -> str:
    """One setting in Hydra's grammar."""
    if isinstance(value, (str, os.PathLike)):
        return f"{name}={quoted(name, str(value), text=True, several=False)}"
    return f"{name}={recipe.text(value)}"


def arguments(settings: Settings, names: Callable[[str], bool] = lambda name: True) -> list[str]:
    """What was set explicitly, as arguments of a command line that gives the very same settings.  names: which of them"""
    overrides = [override for override in settings.origin.overrides if names(_name(override))]
    return [argument for override in overrides for argument in _spelled(override, type(settings))]


def argument(name: str, value: Any) -> list[str]:
    """One setting as arguments of a command line."""
    short = isinstance(value, float) and float(f"{value:g}") == value  # 6 for 6.0
    text = f"{value:g}" if short else recipe.text(value)
    return [f"--{name}", text] if text and not text.startswith("--") else [f"--{name}={text}"]


def _spelled(override: str, kind: type[Settings]) -> list[str]:
    name, _, value = override.partition("=")
    for text in (unquoted(value), value):
        pair = [f"{name}={text}"] if name[0] in "+~" or not text or text.startswith("--") else [f"--{name}", text]
        if parse(pair, kind)[0] == [override]:
            return pair
    return [override]
