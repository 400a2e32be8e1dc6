"""`--recipe PATH.yaml` is its words, said first; a file that cannot be meant is answered in one line."""
import subprocess
import sys
from pathlib import Path

import commands
import pytest
from commands import ROOT

from core import cli, recipe
from core.identity import fingerprint, identity
from ssl.pretrain import TOOL

FILE = """\
# a comment
method: moco_v2
data: cifar10
epochs: 3
clip: null
pretrained: no
encoder: 'resnet18'
optim: {lr: 4e-1, betas: [0.8, 0.95], weight_decay: 1e-6}
augment: asymmetric
augment.crop: [0.2, 1]
augment.solarize: [0, 0.3]
augment.local: {views: 2, crop: [0.1, 0.3]}
"""
SAID = ["--method=moco_v2", "--data=cifar10", "--epochs=3", "--clip=null", "--encoder", "resnet18", "--optim.lr=0.4"]
SAID += ["--optim.betas=[0.8,0.95]", "--optim.weight_decay=1e-6", "--augment=asymmetric", "--augment.crop=[0.2,1]"]
SAID += ["--augment.solarize=[0,0.3]", "--augment.local.views=2", "--augment.local.crop=[0.1,0.3]"]


@pytest.fixture
def file(tmp_path: Path):
    """Text → a recipe's path."""

    def write(text: str, name: str = "mine.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def said(*argv: str):
    """Command line → configuration."""
    words, _ = cli.parse(list(argv))
    words, _ = cli.with_recipe(TOOL, words)
    cli.check_choices(TOOL, words)
    return cli.compose(TOOL, words)


def settings(*argv: str) -> dict:
    return cli.plain(said(*argv))


def test_a_file_means_what_its_words_mean_when_said(file):
    assert settings("--recipe", file(FILE)) == settings(*SAID)


def test_the_command_line_has_the_last_word_wherever_it_stands(file):
    path = file(FILE)
    for argv in (["--optim.lr=0.7", "--recipe", path], ["--recipe", path, "--optim.lr=0.7"]):
        assert settings(*argv) == settings(*SAID, "--optim.lr=0.7")
    assert said("--recipe", path, "--method=byol").method.name == "byol"
    assert said("--recipe", path, "--data=digits", "--augment=weak").augment.name == "weak"
    assert said("--recipe", path, "--recipe", file("seed: 4", "other.yaml")).data.name == "digits", "the last file alone"


def test_a_byte_order_mark_is_no_part_of_the_file(file):
    path = file("placeholder")
    Path(path).write_bytes(b"\xef\xbb\xbf" + FILE.encode())
    assert settings("--recipe", path) == settings(*SAID)
    Path(path).write_bytes(FILE.encode("utf-16"))
    assert settings("--recipe", path) == settings(*SAID), "YAML knows UTF-16 by its mark"


def test_the_file_is_in_the_place_of_the_datas_own_recipe(file):
    nothing = file("seed: 0")
    assert said().epochs == 80, "ssl/recipe/digits.yaml"
    assert said("--recipe", nothing).epochs == 100
    assert settings("--recipe", nothing) == settings("--recipe=null")


def test_the_identity_is_of_the_words_and_not_of_the_file(file):
    first, second = said("--recipe", file(FILE)), said("--recipe", file(FILE, "b c.yaml"))
    assert fingerprint(identity(first)) == fingerprint(identity(said(*SAID)))
    assert cli.yaml_text(first) == cli.yaml_text(second) == cli.yaml_text(said(*SAID))


def test_the_processes_of_a_run_need_no_file(file, tmp_path):
    path = file(FILE.replace("'resnet18'", "a b/it's.safetensors"))
    settings = said("--recipe", path)
    Path(path).unlink()
    assert cli.load(TOOL, cli.save(settings, tmp_path / "settings.json")[1]) == settings
    assert cli.derive(TOOL, settings) == settings


@pytest.mark.parametrize("name", ["a b.yaml", "it's.yaml", "a=b.yml", "é,[x].yaml"])
def test_a_file_of_any_name(file, name):
    assert said("--recipe", file("seed: 3", name)).seed == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_file_as_windows_writes_it(tmp_path, encoding):
    path = tmp_path / "mine.yaml"
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    path.write_bytes((mark + "seed: 3\r\nout: é\r\n").encode(encoding))
    words = said("--recipe", str(path))
    assert (words.seed, words.out) == (3, "é")


def test_a_home_folder_of_nobody(capsys):
    assert cli.main(TOOL, pytest.fail, ["--recipe=~nobody-of-this-name/x.yaml"]) == 2
    assert "no such file" in capsys.readouterr().err


WRONG = {
    "method: simclr\nepocs: 3": ("epocs", "did you mean epochs?"),
    "method: {temprature: 0.1}": ("method.temprature", "did you mean method.temperature?"),
    "method: simclear": ("method=simclear", "did you mean simclr?"),
    "augment: storng": ("augment=storng", "did you mean strong?"),
    "optim: {lr: abc}": ("optim.lr=abc", "must be a number"),
    "method.hidden: big": ("method.hidden=big", "a whole number"),
    "optim: {warmup: 2}": ("optim.warmup=2", "from 0 to less than 1"),
    "two words: 3": ("'--two words=3' is no setting",),
    "recipe: digits": ("names no other",),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_word_is_told_with_its_file_and_the_nearest_right_one(file, capsys, text):
    from core.training import check

    path = file(text)
    assert cli.main(TOOL, check, ["--recipe", path]) == 2
    message = capsys.readouterr().err
    line = "" if text in ("two words: 3", "recipe: digits") else f", line {text.count(chr(10)) + 1}"
    assert message.startswith(f"error: {path}{line}: ")
    assert message.count(path) == message.count("\n") == 1
    assert all(part in message for part in WRONG[text]), message


NO_RECIPE = {
    "- method\n- simclr": "must be a mapping of settings",
    "simclr": "must be a mapping of settings",
    "": "must be a mapping of settings",
    "# only a comment": "must be a mapping of settings",
    "method: [": "no YAML, line",
    "seed: 1\nseed: 2": "no YAML, line 2: found duplicate key seed",
    "\tseed: 1": "no YAML, line 1",
}


@pytest.mark.parametrize("text", NO_RECIPE)
def test_what_is_no_recipe(file, text):
    with pytest.raises(ValueError, match=NO_RECIPE[text]) as error:
        recipe.read(path := file(text))
    assert str(error.value).startswith(f"recipe={path}")


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xff\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        recipe.read(str(tmp_path / "binary.yaml"))
    for name in ("absent.yaml", "."):
        with pytest.raises(ValueError, match="there is no such file"):
            recipe.read(str(tmp_path / name))


def test_the_command_lines_own_mistake_is_not_the_files(file, capsys):
    path = file("epochs: 3\nseed: x")
    assert cli.main(TOOL, pytest.fail, ["--recipe", path, "--epocs=3", "--seed=1"]) == 2
    assert capsys.readouterr().err == "error: there is no setting 'epocs'; did you mean epochs?\n"


def test_a_group_that_is_neither_known_nor_a_file_lists_both(capsys):
    assert cli.main(TOOL, pytest.fail, ["--recipe=nope"]) == 2
    assert "digits, fashion_mnist, null, a file PATH.yaml" in capsys.readouterr().err


def test_help_and_cfg(file, capsys):
    assert cli.main(TOOL, pytest.fail, ["--recipe", file(FILE), "--cfg", "job"]) == 0
    assert "epochs: 3.0\n" in capsys.readouterr().out
    assert cli.main(TOOL, pytest.fail, ["--help"]) == 0
    assert "--recipe PATH.yaml" in capsys.readouterr().out


def test_several_runs_of_a_file(file, tmp_path):
    path = file("epochs: 3\nout: 'a,b'\naugment.crop: [0.2, 1]")
    code = "import sys; from core import cli; from ssl.pretrain import TOOL\n"
    code += "def run(w): print(w.seed, w.out, w.epochs, w.augment.crop, flush=True)\n"
    code += "sys.exit(cli.main(TOOL, run, sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--multirun", "--seed=4,5", "--recipe", path, f"hydra.sweep.dir={tmp_path}/m"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{seed} a,b 3.0 [0.2, 1]" for seed in (4, 5)], done.stderr
    done = subprocess.run([*command, "--recipe", file("epocs: 3")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {file('epocs: 3')}, line 1: there is no setting 'epocs'; did you mean epochs?\n"


@pytest.mark.long
def test_the_same_words_without_the_file_go_on_with_its_run(file, tmp_path):
    path, out = file("method: simclr\noptim: {lr: 0.2}"), f"--out={tmp_path / 'run'}"
    first = commands.run(*commands.SMALL, "--recipe", path, out, logs=tmp_path / "1")
    assert first.code == 0, first.err
    done = (tmp_path / "run" / "metrics.jsonl").read_text()
    again = commands.run(*commands.SMALL, "--method=simclr", "--optim.lr=0.2", out, logs=tmp_path / "2")
    assert again.code == 0, again.err
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == done
    other = commands.run(*commands.SMALL, "--recipe", path, "--optim.lr=0.3", out, logs=tmp_path / "3")
    assert (other.code, "optim.lr: 0.2 → 0.3" in other.line) == (2, True)
