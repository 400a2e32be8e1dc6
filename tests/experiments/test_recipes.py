"""Every recipe says what it claims, is what it says, and can be built."""
import json
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
from commands import shortened

from core import cli, identity, optim
from core.training import build_method, check, learning_rate
from linear_eval.names import renamed
from ssl.pretrain import TOOL
from vision import encoders
from vision.augment import Augmentation

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "recipes"
PATHS = sorted(str(path.relative_to(ROOT)) for path in FOLDER.rglob("*.yaml"))
METHODS = {"simclr", "moco_v2", "moco_v3", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "dino", "nnclr", "dcl"}
METHODS |= {"supcon", "all4one", "lejepa"}
ON_PATCHES = {"mae", "simmim", "ijepa", "ibot", "dinov2", "simdinov2", "dinov3"}
SETS = dict.fromkeys(("cifar10", "cifar100", "stl10", "imagenet100", "imagenet"), METHODS)
SETS["stl10"] = METHODS - {"supcon"}  # 100,000 of its images have no labels
SETS["fashion_mnist"] = METHODS
SETS["fashion_mnist_vit"] = ON_PATCHES | {"simclr", "visreg"}
SETS["cifar10"] = METHODS | ON_PATCHES | {"visreg"}
SETS["imagenet"] = METHODS | {"moco_v3_vit", "dino_vit", "lejepa_vit"}
SMALLER = {"hidden": 32, "dim": 16, "predictor_hidden": 32, "queue_size": 48, "bn_splits": 4, "prototypes": 20, "slices": 24}
SMALLER |= {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # where the commands are meant to be typed


def header(path: str) -> list[str]:
    """The comments that a file opens with."""
    return re.match(r"(#.*\n)*", Path(path).read_text())[0].splitlines()


def command(path: str) -> list[str]:
    """The words of the header's own command, after the tool's name."""
    line = next(line for line in header(path) if line.startswith("# command: "))
    said = shlex.split(line.removeprefix("# command: "))
    assert said[:5] == ["uv", "run", "python", "-m", "ssl.pretrain"]
    return said[5:]


def composed(argv: list[str], *more: str):
    words, _ = cli.parse(argv)
    words, _ = cli.with_recipe(TOOL, words)
    words += more
    cli.check_choices(TOOL, words)
    return cli.compose(TOOL, words)


def test_every_method_on_every_data_set():
    found = {data: {Path(path).stem for path in PATHS if f"/{data}/" in path} for data in SETS}
    assert found == SETS
    assert len(PATHS) == sum(map(len, SETS.values())), "no file elsewhere"


def fingerprint(path: str) -> str:
    """Of the whole configuration that a recipe makes."""
    return identity.fingerprint(identity.identity(composed(["--recipe", path])))


@pytest.mark.parametrize("path", PATHS)
def test_the_header_is_a_claim(path):
    first, said, hardware, expected, *rest = header(path)
    data, name = path.split("/")[-2], Path(path).stem
    assert re.search(r"arXiv \d{4}\.\d{5}\) on ", first)
    assert said.startswith(f"# command: uv run python -m ssl.pretrain --recipe {path}")
    assert ("--data.root" in said) == ("--devices" in said) == data.startswith("imagenet")
    small = data.startswith("fashion_mnist")
    assert re.match("# hardware: one core of a CPU" if small else r"# hardware: .*GPU", hardware)
    assert re.match(r"# expected: (\d+\.\d+ .*%.* \(|no published figure known)", expected)
    if data == "fashion_mnist_vit":
        table = json.loads((ROOT / "experiments" / "tables" / "measured" / "fashion_mnist_tokens.json").read_text())
        measured = any(f"/{name}.yaml" in cell["command"] for cell in table["cells"].values())
        where = "in experiments/tables/measured/fashion_mnist_tokens.json, beside the others of this folder"
        assert f"# measured: {where if measured else 'not measured'}" in rest
    elif not small:
        assert "# measured: not measured" in rest
    else:
        document = renamed(json.loads((ROOT / "experiments" / "family" / "fashion_mnist.json").read_text()))
        figures = document["summary"][name]
        scores = ", ".join(f"{title} {figures[key]['mean']:.1f}" for key, title in (("logistic", "logistic"), ("knn", "kNN")))
        seeds = f"{figures['seeds']} seed" + "s" * (figures["seeds"] > 1)
        assert f"# measured: {scores} % on test, {seeds} (experiments/family/fashion_mnist.json)" in rest
        measured = {c["fingerprint"] for c in document["cells"] if c["method"] == name}
        assert measured == {fingerprint(path)}, "the figures are those of this very recipe"
    assert name.removesuffix("_vit") in METHODS | SETS[data]


@pytest.mark.parametrize("path", PATHS)
def test_the_command_is_what_the_path_says(path):
    words = composed(command(path))
    data, name = path.split("/")[-2], Path(path).stem
    check(words)
    assert words.method.name == name
    assert words.data.name == ("folder" if data.startswith("imagenet") else data.removesuffix("_vit"))
    assert timm.is_model(words.encoder) or words.encoder in encoders.NAMED
    Augmentation(words.image_size, (0.5,), (0.2,), **cli.plain(words.augment))
    given = {line.split(":")[0] for line in Path(path).read_text().splitlines() if re.match(r"\w", line)}
    assert given >= {"method", "data", "encoder", "epochs", "batch_size", "augment"}


@pytest.mark.parametrize("path", shortened(sorted(PATHS, key=lambda path: "/imagenet/" not in path), 17))  # each method once
def test_the_method_builds(path):
    arguments = composed(command(path)).method
    small = [f"method.{name}={value}" for name, value in SMALLER.items() if arguments.get(name) is not None]
    encoder = "test_vit" if path.endswith("_vit.yaml") else "vit_tiny_patch4" if Path(path).stem in ON_PATCHES else "small"
    words = composed(command(path), *small, f"encoder={encoder}", "image_size=32", "batch_size=16", "stem=auto")
    torch.manual_seed(0)
    local = words.augment.local.views > 0
    method = build_method(words, encoders.create(words.encoder, 3, words.image_size, words.stem, False, local).train())
    method.prepare(1000, words.batch_size)
    rates = {group["lr"] for group in optim.build(method, words.optim, learning_rate(words)).param_groups}
    assert rates
    assert all(rate > 0 for rate in rates)
