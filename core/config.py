"""Words on the command line → one composed, typed, frozen configuration.

`--name value`, `--name=value` and `name=value` all mean Hydra's `name=value`; its groups, `--multirun` and launchers
work as ever, and `--cfg` prints what was understood. Nothing here imports torch, so `--help` and a mistyped word answer
at once. Entry files read the configuration; everything else receives objects and numbers.
"""
import difflib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from core import home, places, ranges, recipe, signals, terminal
from core.errors import RunError
from core.home import expand  # noqa: F401, for those who have paths from a configuration
from core.recipe import Recipe
from core.words import PretrainWords, help_text, texts_of, types_of

GROUPS = ("method", "data", "augment", "protocol")
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
NAME = r"(\+\+?|~)?[A-Za-z_][\w./@:]*"
QUOTED = r"""'([^'\\]|\\.)*'|"([^"\\]|\\.)*\""""  # in quotes, with none inside but escaped ones
FLAGS = {"-m": "multirun", "--multirun": "multirun", "-c": "cfg", "--cfg": "cfg"}
STOPPED = (75, 130)  # exit codes of a run that was told to stop


@dataclass(frozen=True)
class Tool:
    """A command: where its configuration lies and which groups choose what."""

    module: str  # as in python -m
    primary: Path  # its yaml; the folder it lies in is searched first
    searched: tuple[Path, ...]  # further folders of groups
    summary: str
    words: type = PretrainWords  # a dataclass of core/words.py's kind: names, types, defaults, meanings

    def choices(self, group: str) -> list[str]:
        folders = [self.primary.parent, *self.searched]
        return sorted({p.stem for folder in folders for p in (folder / group).glob("*.yaml")})

    def example(self, group: str, choice: str) -> dict:
        """The words of a group's choice, with the values its yaml gives them."""
        from omegaconf import OmegaConf

        paths = [folder / group / f"{choice}.yaml" for folder in (self.primary.parent, *self.searched)]
        found = next((OmegaConf.to_container(OmegaConf.load(path)) for path in paths if path.exists()), {})
        return found.get(group, found)

    def groups(self) -> dict[str, list[str]]:
        """The groups that are words of this tool → their choices."""
        known = {f.name for f in fields(self.words)}
        return {g: found for g in GROUPS if g in known and (found := self.choices(g))}


def main(tool: Tool, run: Callable[[Any], int | None], argv: list[str] | None = None) -> int:
    """Understand the words, run, and turn a user's mistake into one line and exit code 2, a signal into one and code 75."""
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
    if any(field.name == "optim" for field in fields(tool.words)):  # it trains
        signals.place(" before the first step; nothing was lost: the same command starts again")


def _main(tool: Tool, run: Callable[[Any], int | None], argv: list[str]) -> int:
    if any(a in ("-h", "--help") for a in argv):
        print(help_text(tool.summary, tool.words, tool.groups()))
        return 0
    file = None
    try:
        words, flags = overrides(argv, tool.words)
        words, file = with_recipe(tool, words)
        check_choices(tool, words)
        if "cfg" not in flags and (note := home.prepare()):
            print(note, file=sys.stderr, flush=True)
        if "multirun" in flags:
            return _multirun(tool, run, words, file)
        config = compose(tool, words)
        if "cfg" in flags:
            print(yaml_text(config), end="")
            return 0
        return run(config) or 0
    except ValueError as error:
        return _refuse(error, file)
    except RunError as error:
        signals.say("error: " + " ".join(str(error).split()))
        return error.code


def _refuse(error: ValueError, file: Recipe | None = None) -> int:
    print(f"error: {file.where(error) if file else ''}{' '.join(str(error).split())}", file=sys.stderr)
    return 2


def overrides(argv: list[str], known: type = PretrainWords) -> tuple[list[str], set[str]]:
    """Command-line arguments → Hydra's overrides, and which of the flags multirun and cfg are among them."""
    flags = {FLAGS[a] for a in argv if a in FLAGS}
    words, rest = [], list(argv)
    while rest:
        argument = rest.pop(0)
        if argument in FLAGS:
            if FLAGS[argument] == "cfg" and rest[:1] == ["job"]:
                rest.pop(0)
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
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
            words.append("data=hf")
            name, value = "data.root", value.removeprefix("hf:")
        word = f"{name}={value}"
        quoted = _quoted(name, value, name in texts_of(known), "multirun" in flags)
        words.append(word if recipe.named(word) else f"{name}={quoted}")
    return words, flags


def text_word(name: str, value: object) -> str:
    """`name=value` as `compose` takes it, whatever characters the text has."""
    return f"{name}={_quoted(name, str(value), text=True, several=False)}"


def _quoted(name: str, value: str, text: bool, several: bool) -> str:
    """A value as Hydra's grammar takes it: text is quoted, numbers, lists and sweeps are left alone."""
    if re.fullmatch(QUOTED, value) or (several and re.search(r"[,(*]", value)):
        return value
    if not text and len(value) > 1 and value[0] + value[-1] in ("[]", "{}"):
        return value
    plain = r"(?!true$|false$|nan$|inf$)[a-z_][\w./-]*" if text else r"[\w./:+-]+"
    if re.fullmatch(plain, value, re.ASCII | re.IGNORECASE) and (name, value) != ("recipe", "null"):
        return value  # a group's choice cannot be null, but an optional group's may be one that is not there
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    return f"'{escaped}'"


def with_recipe(tool: Tool, words: list[str]) -> tuple[list[str], Recipe | None]:
    """`recipe=PATH.yaml` among the words becomes the file's words, before the others and less those said again."""
    last = next((word for word in reversed(words) if word.startswith("recipe=")), "")
    if not (path := recipe.named(last)):
        return words, None
    words = [word for word in words if not word.startswith("recipe=")]
    said = {word.partition("=")[0].lstrip("+") for word in words}
    try:
        found, _ = overrides(recipe.read(path), tool.words)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("recipe=") else f"{path}: {error}") from error
    found = [word for word in found if word.partition("=")[0] not in said]
    names = tuple(word.partition("=")[0] for word in found)
    if "recipe" in names:
        raise ValueError(f"{path}: recipe: a recipe names no other")
    return [*(["recipe='null'"] if tool.choices("recipe") else []), *found, *words], Recipe(path, names)


def check_choices(tool: Tool, words: list[str]) -> None:
    known = tool.groups() | ({"recipe": [*found, "null", "a file PATH.yaml"]} if (found := tool.choices("recipe")) else {})
    for name, _, value in (text.partition("=") for text in words):
        for choice in value.split(",") if name in known else ():
            choice = choice.strip("'\" ")
            if choice not in known[name]:
                near = difflib.get_close_matches(choice, known[name], 1, 0.5)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"{name}={choice}: there are {', '.join(known[name])}{hint}")


def compose(tool: Tool, words: list[str]):
    """The configuration of these words: typed, complete, read-only.  Raises ValueError in one line for a wrong word."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    _register(tool)
    try:
        with initialize_config_dir(str(tool.primary.parent), version_base=None):
            config = hydra_compose(tool.primary.stem, words, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(tool, error, words)) from error
    return _finish(tool, config, config.hydra.runtime.choices, words)


def _register(tool: Tool) -> None:
    """Tell Hydra of the tool's types, and of its further folders: as paths, so that their names may hold any character."""
    from hydra.core.config_store import ConfigStore

    from core.searchpath import search

    ConfigStore.instance().store(name="words", node=tool.words)
    search(tool.searched)


def _finish(tool: Tool, config, choices, words: list[str]):
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    OmegaConf.set_struct(config, False)
    config.pop("hydra", None)
    groups = (*GROUPS, "recipe")
    config["chosen"] = {g: choices[g] for g in groups if choices.get(g) not in (None, "null")}
    config["chosen"]["words"] = words
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    for group in set(tool.groups()) - {"augment", "protocol"}:  # their lists have any length: their readers check them
        _check_kinds(group, tool.example(group, config.chosen[group]), plain(config[group]))
    values = {name: value for name, value in flat(config).items() if not name.startswith("chosen.")}
    ranges.check(values)
    places.check(values)
    OmegaConf.set_struct(config, True)
    OmegaConf.set_readonly(config, True)
    return config


def _check_kinds(group: str, example: dict, given: dict) -> None:
    """A group's words have no types; the values in its yaml show of which kind they are."""
    for name, shown in example.items():
        value, said = given.get(name), f"{group}.{name}={given.get(name)}"
        if isinstance(shown, list):
            if not isinstance(value, list) or len(value) != len(shown) or not all(map(_alike, shown, value)):
                raise ValueError(f"{said}: must be a list like {str(shown).replace(' ', '')}")
        elif shown is not None and not _alike(shown, value):
            raise ValueError(f"{said}: must be {KINDS[type(shown)]}, such as {str(shown).lower()}")
        elif type(shown) is int and shown > 0 >= value:  # sizes and counts
            raise ValueError(f"{said}: must be more than 0, such as {shown}")


def _alike(shown: Any, value: Any) -> bool:
    return type(value) is type(shown) or (type(shown) is float and type(value) is int)


def _multirun(tool: Tool, run: Callable, words: list[str], file: Recipe | None) -> int:
    """Hydra's own main: several runs, here or through a launcher such as hydra/launcher=submitit_slurm.

    One that fails lets the others run; one that is stopped ends them all. The exit code is the worst.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from core import sweep

    _register(tool)
    codes = [0]

    def one(config) -> int:
        hydra_config = HydraConfig.get()
        _place(tool)
        try:
            said = list(hydra_config.overrides.task)
            return run(_finish(tool, OmegaConf.create(config), hydra_config.runtime.choices, said)) or 0
        except ValueError as error:
            return _refuse(error, file)

    def job(config):
        code = sweep.run_in_job(partial(one, config)) if sweep.in_job() else one(config)
        if code in STOPPED:
            raise SystemExit(code)
        if code and sweep.in_job():
            raise RuntimeError(f"this run ended with code {code}")  # so that a launcher elsewhere knows
        codes.append(code)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # the exception itself, for one line of our own
    sys.argv = [tool.module, "--multirun", *words, *sweep.defaults(words, tool.module)]
    try:
        with sweep.submitted():
            hydra.main(version_base=None, config_path=str(tool.primary.parent), config_name=tool.primary.stem)(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(tool, error, words)) from error
    return max(codes)


def _explain(tool: Tool, error: Exception, words: list[str]) -> str:
    """Hydra's message as one line that names the word, and the nearest right one."""
    text = str(error) + (f"\n{error.__cause__}" if error.__cause__ else "")
    if found := re.search(r"Could not override '([^']+)'", text):
        name = found[1]
        choices = [w for w in words if w.split("=")[0] in tool.groups() and "," not in w]
        known = [*tool.groups(), *types_of(tool.words), *(flat(compose(tool, choices)) if choices != words else ())]
        known = [k for k in known if not k.startswith("chosen.")]
        near = difflib.get_close_matches(name, known, 1, 0.6)
        return f"there is no setting '{name}'; {f'did you mean {near[0]}?' if near else 'see --help'}"
    for name, _, value in (w.partition("=") for w in words):
        if f"{name}={value}" in text and name in types_of(tool.words):
            return f"{name}={value}: must be {KINDS.get(types_of(tool.words)[name], 'a list like [0.9,0.999]')}"
        if name == "optim":
            return f"optim={value}: optim has words of its own; say --optim.name {value}"
    return text.splitlines()[0]


def flat(config, prefix: str = "") -> dict[str, Any]:
    """Dotted name → value."""
    out = {}
    for name, value in (config if isinstance(config, dict) else plain(config)).items():
        path = f"{prefix}{name}"
        out.update(flat(value, f"{path}.") if isinstance(value, dict) else {path: value})
    return out


def yaml_text(config) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create({k: v for k, v in plain(config).items() if k != "chosen"}))


def plain(config) -> dict:
    """The configuration, or a part of it, as plain dicts and lists."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config)
