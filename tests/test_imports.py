"""Which package may know which: every import of the code, read with `ast`, held to the design."""
import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("core", "vision", "ssl", "linear_eval", "distill", "nas", "deploy", "experiments", "paper_figures", "nolabel")
# What alone may name torch.distributed:
DISTRIBUTED = ("core/processes.py", "core/launch.py", "core/shard.py", "core/sharded_checkpoint.py")
TOOLS = ("ssl", "linear_eval", "distill", "nas", "deploy")
LIBRARIES = {  # what any tool may call
    "linear_eval.average_precision", "linear_eval.descriptors", "linear_eval.feature_sections", "linear_eval.features",
    "linear_eval.knn", "linear_eval.probe", "linear_eval.samples",
}  # fmt: skip
FROM_CORE_IN_VISION = {"core.counter_rng", "core.processes", "core.method", "core.cli", "core.errors", "core.settings"}
FROM_CORE_IN_VISION |= {"core.machine", "core.run.log_line", "core.run.counting", "core.signals.leave_to_parent"}
FROM_CORE_IN_VISION |= {"core.graph", "core.home", "core.image_size", "core.moments", "core.recompute", "core.setting_fields"}
FROM_CORE_IN_VISION |= {"core.shard"}


def imports(source: str) -> set[str]:
    """Every module a file may load, and what it takes from them: `from a.b import c` is a.b.c."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their package; none is relative"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def inside(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def violations(path: str, source: str) -> list[str]:
    """What a file at this path may not import."""
    package = path.split("/")[0]
    wrong = []
    for name in imports(source):
        target = name.split(".")[0]
        ours = target in PACKAGES and target != package
        if inside(name, "torch.distributed") and path not in DISTRIBUTED:
            wrong.append(f"{path}: {name}; only {', '.join(DISTRIBUTED)} name it")
        if ours and not allowed(package, name):
            wrong.append(f"{path}: {name}; {package} may not import it")
    dotted = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    if "torch.distributed" in dotted and path not in DISTRIBUTED:
        wrong.append(f"{path}: torch.distributed; only {', '.join(DISTRIBUTED)} name it")
    return wrong


def allowed(package: str, name: str) -> bool:
    """May a file of `package` import `name`, a module of another package or something in it?"""
    target = name.split(".")[0]
    if package == "nolabel":  # the tools as functions
        return target not in ("experiments", "paper_figures")
    if target in ("experiments", "paper_figures", "nolabel"):
        return False
    match package:
        case "core":
            return False
        case "vision":
            return any(inside(name, module) for module in FROM_CORE_IN_VISION)
        case "experiments":  # drives the tools by their command lines; benchmarks time our functions beside a peer's
            return True
        case "paper_figures":
            return False
    if target in ("core", "vision"):
        return True
    if package == "nas" and target == "deploy":  # what a network costs where it is deployed
        return True
    if package == "nas" and (name.endswith(".run") or name in ("ssl.pretrain", "ssl.plan")):  # whose run and plan a trial's are
        return True
    return any(inside(name, module) for module in LIBRARIES)


def files() -> list[str]:
    found = [p for package in PACKAGES for p in (ROOT / package).rglob("*.py")]
    return sorted(p.relative_to(ROOT).as_posix() for p in found)


def cycle(sources: dict[str, str]) -> list[str]:
    """A circle of imports among modules, those inside functions too; [] where there is none.  sources: path → text"""
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): text for path, text in sources.items()}
    graph = {}
    for module, text in modules.items():
        known = {name if name in modules else name.rpartition(".")[0] for name in imports(text)}
        graph[module] = {name for name in known if name in modules and name != module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_file_imports_one_that_imports_it():
    assert cycle({path: (ROOT / path).read_text() for path in files()}) == []


def test_a_circle_is_seen_through_functions_and_packages():
    sources = {"core/a.py": "from core import b", "core/b.py": "def f():\n    import core.c.d", "core/c/__init__.py": "",
               "core/c/d.py": "from core.a import g"}
    assert set(cycle(sources)) == {"core.a", "core.b", "core.c.d"}
    assert cycle(sources | {"core/c/d.py": "from core.c import g"}) == []


def test_every_file_imports_only_what_its_package_may():
    assert len(files()) > 25
    assert [line for path in files() for line in violations(path, (ROOT / path).read_text())] == []


@pytest.mark.parametrize(("path", "source"), [
    ("core/loop.py", "from vision import augment"),
    ("core/loop.py", "def f():\n    import ssl.losses"),
    ("vision/loaders.py", "from core.loop import train"),
    ("vision/loaders.py", "from core import loop"),
    ("vision/loaders.py", "import linear_eval.knn"),
    ("ssl/health.py", "from linear_eval.report import table"),
    ("ssl/health.py", "from linear_eval import knn, report"),
    ("ssl/health.py", "from experiments.speed import losses"),
    ("ssl/losses.py", "import torch.distributed as dist"),
    ("ssl/losses.py", "from torch import distributed"),
    ("ssl/losses.py", "import torch\ntorch.distributed.barrier()"),
    ("linear_eval/knn.py", "from ssl.losses import nt_xent"),
    ("linear_eval/knn.py", "import importlib\nimportlib.import_module('ssl.losses')"),
    ("nas/search.py", "from ssl.losses import nt_xent"),
    ("paper_figures/figure_1.py", "from core import run"),
    ("ssl/report.py", "import nolabel"),
    ("nolabel/tools.py", "from experiments import report"),
])
def test_a_planted_violation_is_found(path, source):
    assert violations(path, source)


@pytest.mark.parametrize(("path", "source"), [
    ("core/loop.py", "import math\nfrom core.run import Run\nfrom torch.nn.parallel import DistributedDataParallel"),
    ("core/processes.py", "import torch.distributed as dist"),
    ("vision/loaders.py", "from core.processes import World\nfrom core import cli"),
    ("ssl/health.py", "from linear_eval.knn import knn\nfrom linear_eval import probe\nfrom vision import augment"),
    ("nas/search.py", "from ssl.pretrain import run"),
    ("deploy/serve.py", "from vision import artifact"),
])
def test_what_is_allowed_passes(path, source):
    assert violations(path, source) == []


def test_the_ssl_package_holds_the_standard_module_and_nothing_else():
    tree = ast.parse((ROOT / "ssl" / "__init__.py").read_text())
    kinds = [type(node) for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    assert kinds == [ast.Expr, ast.Expr, ast.Delete]  # docstring, the standard file's execution, and tidying up
    assert imports(ast.unparse(tree)) == {"sys", "sysconfig", "importlib.machinery.PathFinder"}
