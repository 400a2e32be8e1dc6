"""What is said on the command line is what the run gets; what cannot be meant is answered in one line."""
import importlib
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import ROOT, shortened

from core import cli, origin, recipe
from core.cli import compose, parse
from core.settings import choices, types_of
from ssl.pretrain import TOOL

MODULES = ("ssl.pretrain", "linear_eval.evaluate", "linear_eval.finetune", "distill.train", "nas.search", "nas.supernet",
           "nas.profile", "nas.export", "deploy.export", "deploy.latency", "deploy.prune", "deploy.serve")


def said(*argv: str):
    """Command line → configuration."""
    words, _ = parse(list(argv))
    cli.check_choices(TOOL, words)
    return compose(TOOL, words)


def refused(*argv: str) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the text is what the test is about)
        said(*argv)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_help_loads_neither_torch_nor_hydra():
    code = "import sys; sys.argv = ['x', '--help']; import runpy\n"
    code += "try: runpy.run_module('ssl.pretrain', run_name='__main__')\n"
    code += "except SystemExit as end: print(end.code, sorted({'torch', 'timm', 'hydra'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "0 []"
    assert all(word in out for word in [*types_of(TOOL.settings), "simclr", "moco_v3", "fashion_mnist", "--multirun"])


@pytest.mark.parametrize("method", sorted(TOOL.choices("method")))
def test_help_on_a_method_lists_its_settings(capsys, method):
    assert cli.main(TOOL, pytest.fail, ["--help", f"method={method}"]) == 0
    out = capsys.readouterr().out
    settings = cli.compose(TOOL, [f"method={method}"]).method
    for name, value in settings.items():
        if name != "_target_":
            assert re.search(rf"^  method\.{name} +{re.escape(recipe.text(value))}$", out, re.M), name
    assert "arXiv" in out.splitlines()[0]


def test_help_on_a_choice_that_is_not_there_is_one_line(capsys):
    assert cli.main(TOOL, pytest.fail, ["--method", "simclear", "--help"]) == 2
    assert "did you mean simclr?" in capsys.readouterr().err
    assert cli.main(TOOL, pytest.fail, ["--data=folder", "-h"]) == 0
    assert re.search(r"^  data\.max_corrupt +0\.2$", capsys.readouterr().out, re.M)


@pytest.mark.parametrize("spelling", [["--seed", "7"], ["--seed=7"], ["seed=7"], ["++seed=7"]])
def test_three_spellings_mean_the_same(spelling):
    assert said(*spelling) == said("seed=7")


def test_values_of_every_kind():
    words = said("--workers", "-1", "--optim.lr", "3e-2", "--pretrained", "--steps=null", "--augment.crop=[0.2,1]",
                 "--optim.betas", "[0.8, 0.95]", "--clip", "1", "--compile", "false", "--epochs", "0.5")
    assert words.workers == -1
    assert words.optim.lr == 0.03
    assert words.pretrained is True
    assert words.compile is False
    assert words.steps is None
    assert list(words.augment.crop) == [0.2, 1]
    assert list(words.optim.betas) == [0.8, 0.95]
    assert words.clip == 1.0
    assert isinstance(words.clip, float)
    assert words.epochs == 0.5


def test_a_switch_leaves_the_next_setting_alone():
    words = said("--compile", "+data.labels=none", "--pretrained", "seed=3", "--data=synthetic")
    assert (words.compile, words.pretrained, words.seed, words.data.labels) == (True, True, 3, "none")


PATHS = ["a b", "~/x y", "a=b", "it's", r"back\slash", "end\\", r"both\'", "a,b", "(x)", "[1] y", "{x}", "été 日本",
         "#5", "$HOME/x", "1", "007", "1e3", "true", "2024-01-01", "C:/x", "-x", "--x", "a@b%c",
         "'a' 'b'", '"', "'", "a;b", "a:b", "a|b", "50%", "$x", "a~b", "a*b", "a?b", "?", "!", "\udce9 latin-1", "\ttab",
         "nan"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_arrives_letter_by_letter(path):
    assert said(f"--out={path}", f"data.root={path}").out == path
    words, _ = parse([f"--data.root={path}"])
    again, _ = parse(words)  # as sent to the processes that a launcher starts
    assert compose(TOOL, again).data.root == path


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_a_tool_hands_to_another_arrives_letter_by_letter(path, tmp_path):
    settings = cli.derive(TOOL, said(), changes={"out": path})
    assert settings.out == path
    assert cli.load(TOOL, cli.save(settings, tmp_path / "settings.json")[1]) == settings
    assert parse(cli.arguments(settings))[0] == list(settings.origin.overrides)


CLONES = ["nolabel-main (1)", "José", "it's", "a,b", "c#", "two words", "R&D [x]", "x{y}", "50%", "a=b", "$x", "${x}", 'q"q',
          "back\\slash", "a:b", "'quoted'", "-x", "日本", "~", "*", "a\u0301"]


@pytest.mark.parametrize("name", CLONES)
@pytest.mark.parametrize("module", shortened(MODULES, 2))
def test_a_clone_in_a_folder_of_any_name_composes(tmp_path, name, module):
    found = clone(importlib.import_module(module).TOOL, tmp_path / name)
    assert choices(compose(found, [])).get("data") == ("digits" if found.searched else None)


def clone(tool: cli.Tool, folder: Path) -> cli.Tool:
    """The tool, its yaml files copied to a folder."""
    primary = folder / tool.primary.relative_to(ROOT)
    for path in (tool.primary, *tool.primary.parent.glob("*/*.yaml"), *(p for s in tool.searched for p in s.rglob("*.yaml"))):
        to = folder / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    return replace(tool, primary=primary, searched=tuple(folder / path.relative_to(ROOT) for path in tool.searched))


def test_several_runs_from_a_clone_of_any_name(tmp_path):
    code = "\n".join([
        "import sys; from pathlib import Path; from dataclasses import replace",
        "from core import cli; from ssl.pretrain import TOOL; folder = Path(sys.argv[1])",
        "tool = replace(TOOL, primary=folder / 'ssl/pretrain.yaml', searched=(folder / 'vision/config',))",
        "sys.exit(cli.main(tool, lambda words: print(words.seed, words.out, flush=True), sys.argv[2:]))",
    ])
    folder = tmp_path / "nolabel-main (1), [x] {y} it's #5 50% é"
    clone(TOOL, folder)
    words = [str(folder), "--multirun", "--seed=0,1", "--out", "a b", f"hydra.sweep.dir={tmp_path}/m"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("0 a b\n1 a b\n", "", 0)


def test_a_hugging_face_name():
    words = said("--data", "hf:uoft-cs/cifar10")
    assert (words.data.name, words.data.root) == ("hf", "uoft-cs/cifar10")


def test_groups_decide_and_the_command_line_has_the_last_word():
    words = said("--method", "moco_v3", "--data", "cifar10", "--optim.lr", "0.1")
    assert words.method._target_ == "ssl.method.moco_v3.MoCoV3"
    assert (words.image_size, words.data.name, words.optim.lr) == (32, "cifar10", 0.1)
    assert words.method.name == "moco_v3"


WRONG = {
    ("--metod", "simclr"): ("metod", "did you mean method?"),
    ("--method", "simclear"): ("method=simclear", "did you mean simclr?"),
    ("--data", "fasion_mnist"): ("data=fasion_mnist", "did you mean fashion_mnist?"),
    ("--augment", "storng"): ("augment=storng", "did you mean strong?"),
    ("--recipe", "nope"): ("recipe=nope", "fashion_mnist"),
    ("--optim.lrr", "1"): ("optim.lrr", "did you mean optim.lr?"),
    ("--method.temprature", "0.1"): ("method.temprature", "did you mean method.temperature?"),
    ("--data.rooot", "x"): ("data.rooot", "did you mean data.root?"),
    ("--epochs", "abc"): ("epochs=abc", "must be a number"),
    ("--batch_size", "1.5"): ("batch_size=1.5", "must be a whole number"),
    ("--batch_size", "null"): ("batch_size=null", "must be a whole number"),
    ("--pretrained", "maybe"): ("pretrained=maybe", "true or false"),
    ("--optim.betas", "warm"): ("optim.betas=[warm]", "a list"),
    ("--optim", "sgd"): ("optim=sgd", "--optim.name sgd"),
    ("--method.hidden", "abc"): ("method.hidden=abc", "a whole number, such as 2048"),
    ("--method.hidden", "2.5"): ("method.hidden=2.5", "a whole number"),
    ("--method.temperature", "warm"): ("method.temperature=warm", "a number"),
    ("--method=moco_v2", "--method.symmetric=1"): ("method.symmetric=1", "true or false"),
    ("--method=moco_v2", "--method.momentum=0.99"): ("method.momentum=0.99", "a list like [0.99,0.999]"),
    ("--method=moco_v2", "--method.momentum=[0.99]"): ("method.momentum=[0.99]", "a list like [0.99,0.999]"),
    ("--method.momentum=[0.9,1", "--method=moco_v2"): ("method.momentum=[0.9,1", "a list"),
    ("--out",): ("--out needs a value",),
    ("--method",): ("--method needs a value",),
    ("--data.root", "--seed", "3"): ("--data.root needs a value",),
    ("seed",): ("'seed' is no setting", "--help"),
    ("-seed", "3"): ("'-seed' is no setting",),
    ("--=3",): ("'--=3' is no setting",),
    ("photos",): ("'photos' is no setting", "name=value"),
}


@pytest.mark.parametrize("argv", WRONG, ids=" ".join)
def test_what_cannot_be_meant_is_answered_in_one_line(argv):
    message = refused(*argv)
    assert all(part in message for part in WRONG[argv]), message


def test_main_turns_a_mistake_into_one_line_and_code_2(capsys):
    assert cli.main(TOOL, pytest.fail, ["--epocs", "3"]) == 2
    assert capsys.readouterr().err == "error: there is no setting 'epocs'; did you mean epochs?\n"


def test_cfg_prints_what_was_understood_and_runs_nothing(capsys):
    assert cli.main(TOOL, pytest.fail, ["--cfg", "job", "--seed", "5"]) == 0
    assert "seed: 5\n" in capsys.readouterr().out


def test_several_runs(tmp_path: Path):
    """Two seeds in one command: each run gets its own configuration, one failure does not stop the other."""
    code = "\n".join([
        "import sys; from core import cli; from core.identity import fingerprint, identity; from ssl.pretrain import TOOL",
        "def run(words):",
        "    print(words.seed, words.out, fingerprint(identity(words)), words.origin.overrides, flush=True)",
        "    if words.seed == 0: raise ValueError('seed=0: no')",
        "sys.exit(cli.main(TOOL, run, sys.argv[1:]))",
    ])
    command = [sys.executable, "-c", code, "--multirun", "--seed=0,1", "--out", "a b", f"hydra.sweep.dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    first, second = done.stdout.splitlines()
    assert first.startswith("0 a b ")
    assert second.startswith("1 a b ")
    assert first.split()[3] != second.split()[3], "each has the fingerprint of its own configuration"
    assert "seed=1" in second
    assert "multirun" not in second, "processes that this run starts must not sweep again"
    assert done.stderr == "error: seed=0: no\n"
    assert done.returncode == 2


def test_several_runs_with_an_unknown_word(tmp_path: Path):
    command = [sys.executable, "-m", "ssl.pretrain", "-m", "sed=0,1", f"hydra.sweep.dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("error: there is no setting 'sed'; did you mean seed?\n", 2)


@pytest.mark.parametrize(("error", "source"), [
    ("seed=3: is odd", ""),
    ("optim.lr=0.45: is large", " (set by method=byol)"),
    ("method.dim=256: is large", " (the default of method=byol)"),
    ("workers=-1: is small", " (the default)"),
    ("no setting here", ""),
    ("unheard=3: of no setting", ""),
])
def test_an_error_names_where_its_setting_comes_from(error, source):
    settings = said("--method=byol", "--seed=3")
    assert origin.located(TOOL, settings, ValueError(error)) == error + source


def test_a_processs_error_names_it_too(tmp_path, capsys):
    """The line is written by core/guard.py, in a process that may be one of several."""
    from core import training

    def run(settings):
        raise ValueError(f"optim.lr={settings.optim.lr}: is a matter of taste")

    def start(settings):
        return training.start(TOOL, lambda settings: None, run, settings)

    (tmp_path / "mine.yaml").write_text("method: simclr\noptim: {lr: 0.5}\n")
    assert cli.main(TOOL, start, [f"--recipe={tmp_path / 'mine.yaml'}"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'mine.yaml'}, line 2: optim.lr=0.5: is a matter of taste\n"
    assert cli.main(TOOL, start, ["--method=moco_v2"]) == 2
    assert capsys.readouterr().err.endswith("is a matter of taste (set by method=moco_v2)\n")


def test_a_former_name_is_understood_and_todays_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "_noted", set())
    (tmp_path / "old.yaml").write_text("checks: 3\nuntil: 2\n")
    words, file = cli.with_recipe(TOOL, parse(["--checks", "5", f"--recipe={tmp_path / 'old.yaml'}"])[0])
    settings = compose(TOOL, words, file)
    assert (settings.evals, settings.pause_at) == (5, 2.0)
    assert capsys.readouterr().err == "note: checks is now called evals\nnote: until is now called pause_at\n"
    parse(["checks=4"])
    assert capsys.readouterr().err == "", "once"
    assert "--checks" not in cli.help_text("", TOOL.settings, {})


def test_dashes_in_a_name_are_underscores():
    assert parse(["--image-size", "32", "--optim.weight-decay=1e-4"])[0] == ["image_size=32", "optim.weight_decay=1e-4"]
    assert said("--save-minutes=-1e-3").save_minutes == -1e-3, "but not those of a value"


def test_a_list_needs_no_brackets():
    assert list(said("--optim.betas", "0.8,0.95").optim.betas) == [0.8, 0.95]
    assert parse(["--optim.betas", "0.8,0.95", "--multirun"])[0][0] != "optim.betas=[0.8,0.95]", "a sweep over two values"
