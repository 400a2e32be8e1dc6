"""The version of the code that a command runs: a hash of syntax and settings, comments and docstrings apart.

It covers the packages that a tool runs. Of a package's methods it covers the named one and those that it imports.
"""
import ast
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
SHARED = ("core", "vision", "linear_eval")  # packages whose code every tool runs, beside its own
TOOLS = ("ssl", "nas", "distill", "deploy")
FURTHER = {"nas": ("ssl", "deploy"), "experiments": TOOLS, "nolabel": TOOLS}  # packages that a package's tools call
DATA = (("experiments", "tables"), ("experiments", "recipes"))  # a command's arguments hold what these say


@cache
def code_version(module: str, method: str = "") -> str:
    """A hash of the code and yaml that `module` runs.  method: the only one of its package that counts; "": all do."""
    digest, own = hashlib.sha256(), module.split(".")[0]
    methods = ROOT / own / "method"
    counted = _with_imports(methods, method) if method and (methods / f"{method}.py").exists() else None
    for package in sorted({*SHARED, own, *FURTHER.get(own, ())}):
        for path in sorted(ROOT.joinpath(package).rglob("*")):
            name = path.relative_to(ROOT)
            if name.parts[:2] in DATA or (path.parent == methods and counted is not None and path.stem not in counted):
                continue
            if path.suffix == ".py":
                digest.update(f"{name} {_syntax(path.read_text())}\n".encode())
            elif path.suffix == ".yaml":
                digest.update(f"{name} ".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def version_of(module: str, arguments: Sequence[str]) -> str:
    return code_version(module, method_of(arguments))


def method_of(arguments: Sequence[str]) -> str:
    """The method that a command or its recipe names; "" where neither does."""
    settings = _settings(arguments)
    if "method" not in settings and (path := ROOT / settings.get("recipe", "?")).is_file():
        settings = {name: str(value) for name, value in (yaml.safe_load(path.read_text()) or {}).items()}
    return settings.get("method", "")


def file_hashes(arguments: Sequence[str]) -> list[str]:
    """Hashes of the repository's recipes and modules that a command names: their content decides its result too."""
    paths = (ROOT / value.split(":")[0] for value in _settings(arguments).values())
    return [hashlib.sha256(p.read_bytes()).hexdigest()[:12] for p in paths if p.suffix in (".yaml", ".py") and p.is_file()]


def _settings(arguments: Sequence[str]) -> dict[str, str]:
    """("--name=value", …) → {name: value, …}"""
    return dict(argument[2:].split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument)


def _with_imports(folder: Path, name: str) -> set[str]:
    """A method, the methods whose modules it imports, and so on; __init__ too."""
    names, left = {"__init__"}, {name}
    while left:
        names.add(one := left.pop())
        text = (folder / f"{one}.py").read_text()
        others = {path.stem for path in folder.glob("*.py")} - names
        left |= {other for other in others if re.search(rf"\bmethod(\.| import .*\b){other}\b", text)}
    return names


def _syntax(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value.value = ""
    return ast.dump(tree)
