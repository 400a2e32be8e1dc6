"""Settings as files: for a process that we start, and for --cfg."""
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from core import composition
from core.composition import Tool
from core.setting_fields import Origin, Settings
from core.settings import choices, plain

FLAG = "--settings"  # before the file's path, as the only arguments of a process


def yaml_text(settings: Settings) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(plain(settings)))


def save(settings: Settings, path: Path) -> list[str]:
    """Write settings for another process of the same tool.  → the arguments that it is started with"""
    origin = dataclasses.asdict(settings.origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"values": plain(settings), "choices": choices(settings), "origin": origin}
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(json.dumps(content), "utf-8", "surrogateescape")
    half.replace(path)
    return [FLAG, str(path)]


def load(tool: Tool, path: str) -> Any:
    """What `save` has written.  → tool.settings.  Raises ValueError where it is no such file."""
    try:
        content = json.loads(Path(path).read_text("utf-8", "surrogateescape"))
        origin = content["origin"]
        origin = Origin(tuple(origin["overrides"]), origin["file"], origin["lines"])
        return composition.typed(tool.settings, content["values"], content["choices"], origin)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{FLAG} {path}: holds no settings of {tool.module} ({type(error).__name__})") from error
