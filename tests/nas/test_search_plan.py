"""A search's plan: no trial is compared inside the warm-up, encoders have about the size of the one that it begins with."""
import json
import os
from types import SimpleNamespace

import optuna
import pytest
import torch
from commands import ROOT, real
from torch.optim.lr_scheduler import LambdaLR

from core import cli
from core.schedule import warmup_cosine
from nas import search, space
from nas.halving import Halving
from nas.observation import excess
from nas.plan import SearchPlan, after_warmup, make_plan, size_limits
from nas.study import open_store, planned_config, search_config
from vision import artifact, cost, encoders


def settings(*options: str):
    return cli.compose(search.TOOL, ["study=s", "data=digits", *options])


def images(count: int = 1294, channels: int = 1):
    """As much of a data set as a plan looks at."""
    return SimpleNamespace(channels=channels, pretrain=range(count))


@pytest.mark.parametrize(("options", "count"), [
    (["epochs=2"], 1294),  # ten steps: the first of three rungs was the one step at rate 0
    (["epochs=1"], 600),  # two steps
    (["epochs=100"], 1294),
    (["epochs=100", "optim.warmup=0.5"], 1294),
    (["epochs=100", "optim.warmup=0"], 60_000),
    (["epochs=10", "rungs=5", "factor=2"], 60_000),
    (["epochs=20", "tune=batch_size:64:512"], 1294),
])
def test_at_every_rung_a_trial_has_made_a_step_at_the_full_rate(options, count):
    """torch counts the steps; the loop's schedule gives their rates."""
    chosen = settings(*options)
    planned, (text, *_) = after_warmup(chosen, count, search_config(chosen).halving.rungs)
    for batch in (256, 512) if "tune=batch_size:64:512" in options else (256,):
        steps = count // batch
        total = max(1, round(chosen.epochs * steps))
        rate = LambdaLR(torch.optim.SGD([torch.zeros(1)], 1.0), lambda step, n=total: warmup_cosine(
            step / n, 1.0, chosen.optim.warmup))
        rates = []
        for _ in range(total):
            rates.append(rate.get_last_lr()[0])
            rate.optimizer.step()
            rate.step()
        peak = rates.index(max(rates))
        assert all(round(rung * steps) > min(peak, total - 1) for rung in planned)
    assert planned == sorted(set(planned))
    assert planned[-1] == chosen.epochs
    assert text.startswith(("Trials pause at ", "Every trial is trained to the end"))


def test_rungs_behind_the_warm_up_stay():
    chosen = settings("epochs=100", "optim.warmup=0.1")
    rungs = search_config(chosen).halving.rungs
    planned, (text,) = after_warmup(chosen, 60_000, rungs)
    assert tuple(planned) == rungs == Halving.of(100, 3, 3).rungs
    warm = "the warm-up of the learning rate takes 10 epochs (2340 of 23400 steps)"
    assert text == f"Trials pause at 11.1 and 33.3 of 100 epochs; {warm}."


@pytest.mark.parametrize("size", [8, 48])
def test_the_default_space_stays_around_the_starting_encoder(size):
    channels = 1 if size == 8 else 3
    chosen = settings(f"image_size={size}", "space=resnet")
    (most, least, set_by), (text,) = size_limits(chosen, images(channels=channels))
    start = encoders.create("small", channels, size)
    macs, parameters = cost.macs(start), cost.parameters(start)
    assert most == {"macs": 2 * macs, "parameters": 2 * parameters}
    assert least == {"macs": macs / 4}
    assert set_by == "around=auto"
    assert "0.25 to 2 times the " in text
    assert "of the starting encoder, small. " in text
    assert "around=none or limit=macs:… sets others" in text
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, function, within = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)), space.space_by_name("resnet"), 0
    for _ in range(60):
        encoder = encoders.build(function(study.ask(), channels, size))
        over = excess({"macs": cost.macs(encoder), "parameters": cost.parameters(encoder)}, most, least)
        within += all(by <= 0 for by in over.values())
        if within > 1:
            break
    assert within > 1, "of so many, a search finds some within its limits"


@pytest.mark.parametrize(("options", "expected"), [
    (["space=resnet", "limit=macs:5"], ({"macs": 5.0}, {}, "")),  # as before there were plans
    (["space=resnet", "around=none"], ({}, {}, "")),
    (["space=names:resnet18"], ({}, {}, "")),
    (["space=tabular"], ({}, {}, "")),
    (["space=elastic", "strategy=supernet"], ({}, {}, "")),
])
def test_limits_that_are_set_replace_it(options, expected):
    assert size_limits(settings("image_size=8", *options), images()) == (expected, [])


def test_a_space_of_ones_own_is_bounded_by_what_it_begins_with(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from vision.encoders import create\n"
        "def mine(trial, channels, size):\n"
        "    return create(trial.suggest_categorical('n', ['tiny', 'small']), channels, size).spec\n"
        "mine.first = {'n': 'tiny'}\n"
    )
    (most, least, _), _ = size_limits(settings("image_size=8", f"space={tmp_path}/mine.py:mine", "around=0.5:3"), images())
    macs = cost.macs(encoders.create("tiny", 1, 8))
    assert (most["macs"], least["macs"]) == (pytest.approx(3 * macs), pytest.approx(macs / 2))


def test_below_and_above_are_both_beyond():
    over = excess({"macs": 1.0, "parameters": 9.0}, {"macs": 8.0, "parameters": 4.0}, {"macs": 2.0})
    assert over == {"macs": -7.0, "parameters": 5.0, "macs at least": 1.0}
    assert excess({"macs": 3.0}, {"macs": 8.0}) == {"macs": -5.0}


def test_a_new_study_keeps_its_plan_and_an_older_one_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen, data = settings("epochs=2", "space=resnet", "image_size=8"), images()
    store = open_store(chosen)
    config = planned_config(chosen, store, data)
    expected = make_plan(chosen, data, search_config(chosen).halving.rungs)
    assert SearchPlan.from_json(json.loads(json.dumps(store.plan))) == expected
    assert config.halving.rungs[0] > search_config(chosen).halving.rungs[0]
    assert planned_config(chosen, open_store(chosen), None) == config, "another worker reads it"
    older = settings("epochs=2", "space=resnet", "image_size=8", "study=older")
    begun = open_store(older)
    begun.study.set_user_attr("planned", None)  # as before there were plans
    begun.study.set_user_attr("promote", None)
    assert planned_config(older, begun, None) == search_config(older)


@pytest.mark.parametrize(("option", "message"), [
    ("around=2:3", "around=2:3: the starting encoder, 1, must be within"),
    ("around=a", "around=a: written least:most, such as 0.25:2, or none"),
])
def test_a_mistake_is_one_line(option, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(search.TOOL, search.begin, [f"--{option}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.long
def test_four_trials_with_defaults_end_with_a_winner_a_table_and_a_picture(tmp_path):
    options = "--study=s", "--data=digits", "--trials=4", "--epochs=4", "--interval=5"
    job = real(*options, module="nas.search", cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    out, err = job.communicate(timeout=500)
    assert job.returncode == 0, err
    folder = tmp_path / "runs" / "nas" / "s"
    found = json.loads((folder / "results.json").read_text())
    assert found["front"]
    assert "Trials pause at " in err
    assert "Encoders have " in err
    assert "| trial | knn (%) | macs (M) |" in out
    start = cost.macs(encoders.create("small", 1, 8))
    assert all(start / 4 <= t["costs"]["macs"] <= 2 * start for t in found["trials"] if t["rungs"])
    assert (folder / "front.svg").stat().st_size > 2000
    assert artifact.load(folder / "encoder.safetensors")[0](torch.zeros(1, 1, 8, 8)).shape[0] == 1
