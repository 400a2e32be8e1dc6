"""--budget: the length of a run by the clock. The clock is a fake one: no test depends on the machine's speed."""
import json

import pytest
from commands import SMALL, run
from safetensors.torch import load

from core import cli, duration
from ssl import budget
from ssl.pretrain import TOOL, check


@pytest.mark.parametrize(("text", "expected"), [("20m", 1200), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("2h 5s", 7205)])
def test_a_time_as_people_write_it(text, expected):
    assert duration.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "20", "m", "0s", "-5m", "5m3h", "20 minutes", "1e9h"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match=r"^budget=.*: must be a time such as 20m, 90s or 1h30m$"):
        duration.seconds(text)


@pytest.mark.parametrize("other", ["steps=5", "epochs=3", "pause_at=1"])
def test_another_length_beside_it_is_refused(other):
    with pytest.raises(ValueError, match=f"^{other.split('=')[0]}=.* must be left out with budget=20m"):
        check(cli.compose(TOOL, ["budget=20m", other]))
    check(cli.compose(TOOL, ["budget=20m"]))


class Folder:
    def __init__(self, folder):
        self.folder = folder


def test_steps_are_the_budget_over_the_median_step(tmp_path):
    """Half a second each, but for slow first ones and one that was disturbed."""

    def train(clock):
        at = 0.0
        for step in range(budget.TIMED):
            at += 9.0 if step < budget.FIRST else 30.0 if step == 7 else 0.5
            clock.at.append(at)

    assert budget.planned_steps(Folder(tmp_path), "100s", train) == 190  # 95 % of 100 s
    assert budget.planned_steps(Folder(tmp_path), "1s", train) == budget.TIMED, "not none"
    (tmp_path / budget.FILE).write_text('{"steps": 77}')
    assert budget.planned_steps(Folder(tmp_path), "100s", None) == 77, "a run that has begun keeps its own"


def test_a_run_takes_its_steps_from_the_budget_and_ends_as_a_run_of_so_many_steps(tmp_path):
    words = [w for w in SMALL if not w.startswith(("--steps", "--epochs"))]
    ended = run(*words, "--method=simclr", "--budget=1s", f"--out={tmp_path / 'a'}", logs=tmp_path / "la")
    assert ended.code == 0, ended.err
    steps = json.loads((tmp_path / "a" / budget.FILE).read_text())["steps"]
    rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == steps >= budget.TIMED
    again = run(*words, "--method=simclr", f"--steps={steps}", f"--out={tmp_path / 'b'}", logs=tmp_path / "lb")
    assert again.code == 0, again.err
    files = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in "ab"]
    one, two = map(load, files)
    assert all((one[name] == two[name]).all() for name in one), "the discarded steps leave no trace"


@pytest.mark.parametrize(("time", "text"), [(1800, "30 min"), (32_400, "9 h"), (300_000, "3 days")])
def test_times_are_told_in_round_units(time, text):
    assert duration.spoken(time) == text


@pytest.mark.parametrize(("steps", "given", "told"), [(10_000, None, 1), (100, None, 0), (10_000, "20m", 0)])
def test_a_long_run_says_so_after_ten_steps_unless_it_has_a_budget(steps, given, told, monkeypatch, capsys):
    now = iter(range(0, 10_000, 2))  # two seconds a step
    monkeypatch.setattr(budget.time, "monotonic", lambda: next(now))
    estimate = budget.Estimate(steps, 96, given)
    for step in range(1, 40):
        estimate.tick(step)
    assert capsys.readouterr().err.count("about 6 h to go at this speed") == told
