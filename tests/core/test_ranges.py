"""Numbers beyond any use are refused in one line, for every setting of every tool, before anything is loaded."""
import importlib
import math
import subprocess
import sys
from functools import cache

import pytest
from commands import ROOT
from test_cli import MODULES

from core import cli, ranges, training
from core.settings import types_of

BEYOND = (math.inf, -math.inf, math.nan, 1e300, -1e300, 10**20, -(10**20))


@cache
def tool(module: str) -> cli.Tool:
    return importlib.import_module(module).TOOL


@cache
def numbers(module: str) -> dict[str, object]:
    """Every numeric setting of a tool and of all its groups' choices → a value of its kind."""
    kinds = types_of(tool(module).settings)
    found: dict[str, object] = {name: kind(1) for name, kind in kinds.items() if kind in (int, float)}
    for group, choices in tool(module).groups().items():
        for choice in choices:
            example = tool(module).example(group, choice)
            for name, value in cli.flat(example).items():
                own = value[0] if isinstance(value, list) else value
                if own is None or (isinstance(own, (int, float)) and not isinstance(own, bool)):
                    found[f"{group}.{name}"] = value
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_number_of_every_tool_has_an_end(module):
    assert len(numbers(module)) >= 2
    for name, value in numbers(module).items():
        ranges.check({name: value})
        for beyond in (number for number in BEYOND if not abs(number) <= ranges.largest(name)):  # optim.lr may be 1e20
            wrong = [value[0], beyond] if isinstance(value, list) else beyond
            with pytest.raises(ValueError, match=rf"^{name}=.*: must be a finite number of at most [\d,e+]+ in size$"):
                ranges.check({name: wrong})


@pytest.mark.parametrize("module", MODULES)
def test_no_default_and_no_papers_constant_is_beyond_its_end(module):
    """Nor a thousandth of it, but for those that memory limits sooner."""
    tight = {"image_size", "method.projector_layers", "batch", "batches", "most_lost", "rungs", "factor", "method.queue_size"}
    for name, value in numbers(module).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, (int, float)):
                assert abs(number) * (1 if name in tight else 10) <= ranges.largest(name, number), name


SPELLED = ("inf", "-inf", "nan", "1e300", "-1e300", "100000000000000000000")
CASES = [(module, name) for module in MODULES for name in sorted(types_of(tool(module).settings)) if name in numbers(module)]


@pytest.mark.parametrize(("module", "name"), [
    pytest.param(*case, marks=[pytest.mark.long] * (i % 12 > 0)) for i, case in enumerate(CASES)])
def test_as_a_user_types_it(module, name, capsys):
    for value in (text for text in SPELLED if not abs(float(text)) <= ranges.largest(name)):
        assert cli.main(tool(module), pytest.fail, [f"--{name}={value}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {name}=")
        assert "must be" in line


@pytest.mark.parametrize("words", [
    ["method.dim=2000000000"], ["method.temperature=nan"], ["method=dino", "method.momentum=[0.9,inf]"],
    ["augment.sigma=[0.1,inf]"], ["augment.local.views=1000000"], ["augment.brightness=-1e300"], ["optim.betas=[0.9,nan]"],
    ["data=folder", "data.max_corrupt=nan"], ["+data.validation=inf"],
])
def test_a_groups_numbers_too(words, capsys):
    assert cli.main(tool("ssl.pretrain"), pytest.fail, words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {words[-1].lstrip('+').partition('=')[0]}=")
    assert "at most" in line or "must be" in line


def test_they_are_answered_without_torch():
    code = "import sys; from ssl.pretrain import TOOL; from core import cli\n"
    code += "print(cli.main(TOOL, print, ['--epochs=1e300']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert done.stderr == "error: epochs=1e+300: must be a finite number of at most 1,000,000 in size\n"


@pytest.mark.parametrize("name", ["workers", "devices"])
def test_processes_are_limited_by_the_cores(monkeypatch, name):
    monkeypatch.setattr(training, "cores", lambda: 2)
    monkeypatch.setattr(training, "gpus", list)
    most = cli.compose(tool("ssl.pretrain"), [f"{name}=24", "batch_size=240"])
    training.check(most)
    with pytest.raises(ValueError, match=rf"^{name}=25: must be at most 24, for 2 usable cores"):
        training.check(cli.compose(tool("ssl.pretrain"), [f"{name}=25", "batch_size=250"]))
    monkeypatch.setattr(training, "gpus", lambda: ["0"] * 64)
    training.check(cli.compose(tool("ssl.pretrain"), [f"{name}=64", "batch_size=640"]))


def test_the_range_of_a_search_has_the_settings_end():
    from nas.settings import parse_tune

    assert parse_tune("lr:0.1:10", {"optim.lr": 0.4}) == [("optim.lr", 0.1, 10.0, False)]
    for wrong in ("lr:0.1:1e300", "lr:0.1:nan", "dim:64:1e20"):
        with pytest.raises(ValueError, match=r"must rise from above 0, to [0-9,e+]+ at most"):
            parse_tune(wrong, {"optim.lr": 0.4, "method.dim": 128})
