"""Hydra's composition of a tool's yaml files and overrides → one settings object, checked and typed."""
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any

from core import places, ranges
from core.recipe import text
from core.setting_fields import Group, Origin, Settings
from core.settings import PretrainSettings, flat, hints, marked

GROUPS = ("method", "data", "augment", "protocol")
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Tool:
    """A command: where its configuration lies and which groups choose what."""

    module: str  # as in python -m
    primary: Path  # its yaml; the folder it lies in is searched first
    searched: tuple[Path, ...]  # further folders of groups
    summary: str
    settings: type[Settings] = PretrainSettings

    def choices(self, group: str) -> list[str]:
        folders = [self.primary.parent, *self.searched]
        return sorted({p.stem for folder in folders for p in (folder / group).glob("*.yaml")})

    def file(self, group: str, choice: str) -> Path | None:
        """The yaml of a group's choice."""
        paths = [folder / group / f"{choice}.yaml" for folder in (self.primary.parent, *self.searched)]
        return next((path for path in paths if path.exists()), None)

    def example(self, group: str, choice: str) -> dict:
        """The settings of a group's choice, with the values its yaml gives them."""
        from omegaconf import OmegaConf

        path = self.file(group, choice)
        found = OmegaConf.to_container(OmegaConf.load(path)) if path else {}
        return found.get(group, found)

    def sets(self, group: str, choice: str) -> set[str]:
        """The settings outside of the group that a choice of it sets."""
        from omegaconf import OmegaConf

        path = self.file(group, choice)
        content = OmegaConf.to_container(OmegaConf.load(path)) if path else {}
        return set(flat({name: value for name, value in content.items() if name not in (group, "defaults")}))

    def explained(self, group: str, choice: str) -> str:
        """Help on a group's choice: what its yaml says of itself, its settings, and which others it sets."""
        from omegaconf import OmegaConf

        path = self.file(group, choice)
        head = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
        content = OmegaConf.to_container(OmegaConf.load(path))
        content.pop("defaults", None)
        own = content.pop(group, None)
        own, others = (content, {}) if own is None else (own, content)  # some files hold the group's settings alone
        about = " ".join(line for line in head if not line.startswith("@"))
        rows = {name: value for name, value in flat({group: own}).items() if not name.endswith("_target_")}
        lines = [f"{group}={choice}: {about}", "", *(f"  {name:<30} {text(value)}" for name, value in rows.items())]
        if others:
            lines += ["", f"  It also sets {', '.join(f'{name}={text(value)}' for name, value in flat(others).items())}."]
        return "\n".join(lines)

    def groups(self) -> dict[str, list[str]]:
        """The groups that are settings of this tool → their choices."""
        known = {f.name for f in fields(self.settings)}
        return {g: found for g in GROUPS if g in known and (found := self.choices(g))}


def composed(tool: Tool, overrides: list[str], origin: Origin) -> Any:
    """→ tool.settings.  Raises ValueError, HydraException, OmegaConfBaseException."""
    from hydra import compose, initialize_config_dir

    register(tool)
    with initialize_config_dir(str(tool.primary.parent), version_base=None):
        config = compose(tool.primary.stem, overrides, return_hydra_config=True)
    return finish(tool, config, config.hydra.runtime.choices, origin)


def register(tool: Tool) -> None:
    """Tell Hydra of the tool's types, and of its further folders: as paths, so that their names may hold any character."""
    from hydra.core.config_store import ConfigStore

    from core.searchpath import search

    ConfigStore.instance().store(name="settings", node=_schema(tool.settings))
    search(tool.searched)


def _schema(kind: type[Settings]):
    """The settings class as OmegaConf takes it: not frozen while it is composed, the content of groups of any type."""
    from omegaconf import OmegaConf

    given = {f.name: f for f in fields(kind)}
    parts = [
        (name, Any if hint is Group or "parse" in given[name].metadata else given[name].type,
         field(default=given[name].default) if given[name].default is not MISSING
         else field(default_factory=given[name].default_factory))
        for name, hint in hints(kind).items()
    ]
    return _thawed(OmegaConf.structured(make_dataclass(kind.__name__, parts)))


def _thawed(node):
    from omegaconf import OmegaConf

    OmegaConf.set_readonly(node, None)
    for child in (node._get_node(key) for key in node):
        if OmegaConf.is_dict(child):
            _thawed(child)
    return node


def finish(tool: Tool, config, choices, origin: Origin) -> Any:
    """What Hydra has composed, checked and typed.  Raises ValueError"""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    OmegaConf.set_struct(config, False)
    config.pop("hydra", None)
    try:
        OmegaConf.resolve(config)
        values = OmegaConf.to_container(config)
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from error
    names = {group: choices[group] for group in GROUPS if choices.get(group) not in (None, "null")}
    for group in set(tool.groups()) - {"augment", "protocol"}:  # their lists have any length: their readers check them
        _check_kinds(group, tool.example(group, names[group]), values[group])
    settings = typed(tool.settings, values, names, origin)
    dotted = flat(settings)
    ranges.check(dotted)
    places.check(dotted, marked(tool.settings, "path"))
    return settings


def typed(kind: type, values: Mapping[str, Any], names: Mapping[str, str], origin: Origin) -> Any:
    """Nested values → the settings class.  names: group → its choice"""
    arguments, parsers = {}, marked(kind, "parse")
    for name, hint in hints(kind).items():
        value = parsers[name](values[name], name) if name in parsers else values[name]
        if hint is Group and value is not None:
            value = Group(names.get(name, ""), value)
        elif is_dataclass(hint):
            value = typed(hint, value, {}, origin)
        arguments[name] = tuple(value) if isinstance(value, list) else value
    settings = kind(**arguments)
    if issubclass(kind, Settings):
        object.__setattr__(settings, "origin", origin)
    return settings


def _check_kinds(group: str, example: dict, given: dict) -> None:
    """A group's settings have no types; the values in its yaml show of which kind they are."""
    for name, shown in example.items():
        value, setting = given.get(name), f"{group}.{name}={given.get(name)}"
        if isinstance(shown, list):
            if not isinstance(value, list) or len(value) != len(shown) or not all(map(_alike, shown, value)):
                raise ValueError(f"{setting}: must be a list like {str(shown).replace(' ', '')}")
        elif shown is not None and not _alike(shown, value):
            raise ValueError(f"{setting}: must be {KINDS[type(shown)]}, such as {str(shown).lower()}")
        elif type(shown) is int and shown > 0 >= value:  # sizes and counts
            raise ValueError(f"{setting}: must be more than 0, such as {shown}")


def _alike(shown: Any, value: Any) -> bool:
    return type(value) is type(shown) or (type(shown) is float and type(value) is int)
