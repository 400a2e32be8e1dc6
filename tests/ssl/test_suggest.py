"""The commands at the end of a report are this run's settings again, whatever characters are in them."""
import shlex

import pytest

from core import cli, identity
from core.settings import PretrainSettings
from ssl import suggest
from ssl.pretrain import TOOL

GIVEN = ["--data=folder", "--data.root=/photos/a b=c's, (x)\\", "--encoder=test_resnet", "--image_size=32", "--batch_size=64",
         "--method=moco_v2", "--method.dim=16", "--optim.betas=[0.9,0.95]", "--data.labels=auto", "--compile", "--seed=3",
         "+data.validation=0.2", "--augment.crop=[0.2,1.0]"]


def composed(*argv: str):
    words, _ = cli.parse(list(argv))
    return cli.compose(TOOL, words)


def parsed(command: str, module: str) -> list[str]:
    """The words that a shell and the tool make of it."""
    said = shlex.split(command)
    assert said[:5] == ["uv", "run", "python", "-m", module]
    return cli.parse(said[5:])[0]


@pytest.mark.parametrize("length", [["--epochs=5"], ["--steps=20", "--pause_at=1"], []])
def test_the_longer_run_changes_its_length_and_its_folder_alone(length):
    words = composed(*GIVEN, *length, "--out=runs/of mine")
    again = cli.compose(TOOL, parsed(suggest.train_on(words), "ssl.pretrain"))
    changes = identity.difference(identity.identity(words), identity.identity(again))
    assert [change.split(":")[0] for change in changes] == (["steps"] if "--steps=20" in length else ["epochs"])
    assert (again.steps, again.epochs) == ((40, 100) if words.steps else (None, 2 * words.epochs))
    assert again.data.root == words.data.root == "/photos/a b=c's, (x)\\"
    assert again.out.startswith("runs/of mine-")
    assert again.compile
    assert again.pause_at is None


def test_a_setting_that_is_added_stays_one():
    words = composed("--data=synthetic", "+data.labels=none", "--steps=4")
    again = cli.compose(TOOL, parsed(suggest.train_on(words), "ssl.pretrain"))
    assert again.data.labels == "none"
    assert again.steps == 8


def test_without_a_folder_of_its_own_none_is_suggested():
    assert "--out" not in suggest.train_on(composed(*GIVEN))


def test_method_and_data_are_named_where_they_were_not():
    assert suggest.train_on(composed("--data=fashion_mnist", "--epochs=3")) == (
        "uv run python -m ssl.pretrain --method simclr --data fashion_mnist --epochs 6"
    )


def test_after_digits_comes_fashion_mnist_with_the_other_settings():
    words = composed("--data=digits", "--encoder=tiny", "--image_size=16", "+data.validation=0.2", "--epochs=2")
    assert suggest.train_on(words) == (
        "uv run python -m ssl.pretrain --method simclr --encoder tiny --data fashion_mnist"
    )


def test_the_evaluation_is_of_the_same_data_and_split():
    from linear_eval.evaluate import TOOL as EVALUATE

    words = composed(*GIVEN)
    said = parsed(suggest.evaluate(words, "runs/a b/encoder.safetensors"), "linear_eval.evaluate")
    again = cli.compose(EVALUATE, said)
    assert again.encoder == "runs/a b/encoder.safetensors"
    assert cli.plain(again.data) == cli.plain(words.data)
    assert again.seed == 3


def test_a_supernets_is_a_supernet():
    from nas.supernet import TOOL as SUPERNET

    said, _ = cli.parse(["--data=fashion_mnist", "--space=my.py:f", "--epochs=1"], SUPERNET.settings)
    words = cli.compose(SUPERNET, said)
    said = shlex.split(suggest.train_on(words))
    assert said[4] == "nas.supernet"
    again = cli.compose(SUPERNET, cli.parse(said[5:], SUPERNET.settings)[0])
    assert again.space == "my.py:f"


@pytest.mark.parametrize("value", ["", "it's", "a\\", "\\'", "'", "a b", "--x", "true", "null", "[1,2]", "é ü", "$HOME `x`"])
def test_any_text_survives(value):
    word = cli.parse([f"data.root={value}"])[0]
    assert cli.parse(shlex.split(shlex.join(cli._spelled(word[0], PretrainSettings))))[0] == word


@pytest.mark.parametrize("bands", [False, True])
def test_without_labels_a_gallery_is_offered(bands):
    from deploy.export import TOOL as EXPORT

    settings = composed(*GIVEN[:-2], "--data.labels=none")
    export, serve = suggest.gallery(settings, "runs/a b/encoder.safetensors", bands)
    again = cli.compose(EXPORT, parsed(export, "deploy.export"))
    assert again.encoder == "runs/a b/encoder.safetensors"
    assert (again.data.root, again.data.labels) == ("/photos/a b=c's, (x)\\", "none")
    assert (again.preprocess, again.gallery) == ((False, 0) if bands else (True, 2000))
    model, gallery = (shlex.split(serve)[i] for i in (6, 8))
    assert model == f"{again.out}/model.onnx"
    assert gallery == (settings.data.root if bands else f"{again.out}/gallery")
