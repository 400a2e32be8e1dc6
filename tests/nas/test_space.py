"""Spaces: every point is an encoder that works, has one hash, and survives JSON; tuned settings and spaces of one's own."""
import json

import optuna
import pytest
import torch
from commands import shortened

from nas import space
from nas.settings import SPACES, parse_tune
from nas.space import Candidate
from vision import artifact, cost, encoders
from vision.augment import Augmentation
from vision.encoders import Spec

FLAT = {"optim.lr": 0.4, "method.temperature": 0.2, "method.hidden": 2048, "augment.brightness": 0.8, "augment.contrast": 0.8,
        "augment.saturation": 0.8, "augment.hue": 0.2, "method.name": "x", "compile": False}


def sampled(name, size, count, channels=1, tune=(), seed=0):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    return [space.sample(study.ask(), space.space_by_name(name), channels, size, list(tune), FLAT) for _ in range(count)]


@pytest.fixture(autouse=True)
def silent():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize(("name", "size"), shortened([
    ("resnet", 28), ("resnetd", 28), ("mobile", 28), ("vit", 28),
    ("resnet", 8), ("resnet", 64), ("resnetd", 8), ("resnetd", 96), ("vit", 32),
], 4))
def test_every_point_is_an_encoder_and_its_file_holds_it(name, size, tmp_path):
    for candidate in sampled(name, size, 6):
        encoder = encoders.build(candidate.spec).eval()
        x = torch.randn(2, 1, candidate.spec.image_size, candidate.spec.image_size)
        assert encoder(x).shape == (2, encoder.dim)
        assert cost.macs(encoder) > 0
        path = tmp_path / f"{candidate.hash}.safetensors"
        path.write_bytes(artifact.dumps(encoder, Augmentation(candidate.spec.image_size, [0.5], [0.5], views=1), {}))
        again, _ = artifact.load(path)
        assert torch.equal(again(x), encoder(x))


def test_a_searched_encoder_loads_with_timm_and_the_lines_that_reports_show(tmp_path):
    candidate = sampled("resnet", 28, 1)[0]
    encoder, path = encoders.build(candidate.spec).eval(), tmp_path / "encoder.safetensors"
    path.write_bytes(artifact.dumps(encoder, Augmentation(candidate.spec.image_size, [0.5], [0.5], views=1), {}))
    names = {}
    exec("import safetensors.torch, timm, torch\n" + artifact.snippet(artifact.read_header(path), str(path)), names)
    x = torch.randn(2, 1, candidate.spec.image_size, candidate.spec.image_size)
    assert torch.equal(names["model"](x), encoder(x))


def test_hashes_tell_candidates_apart_and_survive_json():
    candidates = sampled("resnet", 28, 40, tune=parse_tune("lr,temperature", FLAT))
    assert len({c.hash for c in candidates}) == 40
    for c in candidates:
        again = Candidate.from_json(json.loads(json.dumps(c.json)))
        assert again == c
        assert again.hash == c.hash
    one = Candidate(candidates[0].spec, {"a": 1, "b": 2})
    assert one.hash == Candidate(candidates[0].spec, {"b": 2, "a": 1}).hash
    assert one.hash != Candidate(candidates[0].spec, {"a": 1, "b": 3}).hash


def test_the_same_parameters_are_the_same_candidate():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(1))
    trial = study.ask()
    first = space.sample(trial, space.resnet, 1, 28, [], {})
    assert space.sample(optuna.trial.FixedTrial(trial.params), space.resnet, 1, 28, [], {}) == first


@pytest.mark.parametrize("size", [8, 16, 17, 28, 64])
def test_the_default_encoders_family_begins_with_the_default(size):
    first = space.initial_params("resnetd", space.resnetd, 1, size, [], {})
    found = space.sample(optuna.trial.FixedTrial(first), space.resnetd, 1, size, [], {})
    assert found.spec == encoders.create("small", 1, size).spec


def test_beyond_small_images_it_begins_with_its_double():
    first = space.initial_params("resnetd", space.resnetd, 3, 96, [], {})
    spec, small = space.resnetd(optuna.trial.FixedTrial(first), 3, 96), encoders.create("small", 3, 96).spec
    assert spec.arguments["channels"] == tuple(2 * width for width in small.arguments["channels"])
    assert spec.arguments["layers"] == small.arguments["layers"]
    assert (spec.stem, spec.arguments["stem_width"]) == (small.stem, 2 * small.arguments["stem_width"])


def test_what_a_search_begins_with_has_the_settings_own_hyperparameters():
    tune = parse_tune("lr,temperature:0.3:0.5,hidden,strength", FLAT)
    first = space.initial_params("resnetd", space.resnetd, 1, 28, tune, FLAT)
    assert space.sample(optuna.trial.FixedTrial(first), space.resnetd, 1, 28, tune, FLAT).settings == {
        "optim.lr": 0.4, "method.temperature": 0.3, "method.hidden": 2048,  # 0.2 is out of its range: the nearest
        "augment.brightness": 0.8, "augment.contrast": 0.8, "augment.saturation": 0.8, "augment.hue": 0.2,
    }
    assert space.initial_params("resnet", space.resnet, 1, 28, tune, FLAT) is None


@pytest.mark.parametrize(("first", "message"), [
    ({"width": 99}, "width=99 is not among 8, 16"), ({"depth": 4}, "depth=4 is not among 1 to 3"),
    ({"width": 8, "rate": 2.0}, "rate=2.0 is not from 0.1 to 0.5"),
])
def test_beginning_with_what_the_space_does_not_offer_is_refused(first, message):
    def mine(trial, channels, size):
        trial.suggest_int("depth", 1, 3), trial.suggest_float("rate", 0.1, 0.5)
        return Spec("lenet5", channels, size, arguments={"width": trial.suggest_categorical("width", [8, 16])})

    mine.first = first
    with pytest.raises(ValueError, match=f"^space=mine: first: {message}$"):
        space.initial_params("mine", mine, 1, 28, [], {})
    mine.first = {"width": 16, "never": 3}
    assert space.initial_params("mine", mine, 1, 28, [], {}) == mine.first


def test_what_is_tuned_stays_in_its_range():
    tune = parse_tune("lr,temperature:0.1:0.5,hidden,strength", FLAT)
    assert tune == [("optim.lr", 0.1, 1.6, False), ("method.temperature", 0.1, 0.5, False), ("method.hidden", 512, 8192, True),
                    ("augment.strength", 0.25, 4.0, False)]
    for candidate in sampled("tabular", 14, 30, tune=tune):
        settings = candidate.settings
        assert 0.1 <= settings["optim.lr"] <= 1.6
        assert 0.1 <= settings["method.temperature"] <= 0.5
        assert settings["method.hidden"] in (512, 1024, 2048, 4096, 8192)
        assert settings["augment.hue"] <= 0.5
        assert settings["augment.brightness"] <= 1.0
        assert "augment.strength" not in settings


@pytest.mark.parametrize(("text", "message"), [
    ("nonsense", "must be a setting whose value is a number above 0"), ("lr:1", "a range is written lr:low:high"),
    ("lr:2:1", "must rise"), ("compile", "number above 0"), ("lr:a:b", "a range is written"),
])
def test_a_wrong_setting_to_tune_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_tune(text, FLAT)


def test_a_space_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def mine(trial, channels, size):\n    return trial.suggest_categorical('n', ['lenet5', 'tiny'])\n")
    assert {c.spec.name for c in sampled(f"{file}:mine", 28, 12)} == {"lenet5", "resnet18d"}
    with pytest.raises(ValueError, match="has no function other"):
        space.space_by_name(f"{file}:other")
    with pytest.raises(ValueError, match="there is no file"):
        space.space_by_name(f"{tmp_path}/none.py:mine")
    file.write_text("1 / 0")
    with pytest.raises(ValueError, match="cannot be run: ZeroDivisionError"):
        space.space_by_name(f"{file}:mine")


def test_names_of_timm():
    assert {c.spec.name for c in sampled("names:lenet5,mobilenetv3_small_050", 28, 12)} == {"lenet5", "mobilenetv3_small_050"}
    with pytest.raises(ValueError, match="there are resnet, resnetd, mobile, vit"):
        space.space_by_name("resnets")
    assert tuple(space.SPACES) == SPACES
