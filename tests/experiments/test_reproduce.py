"""`python -m experiments.reproduce`: tables and cells, with a tool that takes a moment, fails when told, and keeps count."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, shortened
from toy_table import TABLE, calls

from core.signals import STOPPING
from experiments import launchers, reproduce
from experiments.cells import State, ordered
from experiments.render import latex
from experiments.runner import run_cells
from experiments.table_file import load
from paper_figures import make


def figures(place: Path) -> dict:
    return json.loads((place / "runs" / "tables" / "sums" / "table.json").read_text())


def begin(place: Path, *words: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(place)])}
    return subprocess.Popen([sys.executable, "-m", "experiments.reproduce", "--table=sums.yaml", *words], cwd=place,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


ALL = sorted([f"first-{s}" for s in (1, 2, 3)] + [f"second-{kind}-{s}" for kind in ("little", "much") for s in (1, 2, 3)])


def test_a_table_is_its_cells_figures_and_is_made_once(place, capsys):
    assert reproduce.main(["--table=sums.yaml", "--parallel=2"]) == 0
    assert sorted(calls(place)) == ALL
    rows = {row["name"]: row for row in figures(place)["rows"]}
    assert rows["little"]["values"] == {"sum": [11.0, 12.0, 13.0], "v": [7.0, 7.0, 7.0]}
    assert (rows["little"]["mean"]["sum"], rows["little"]["std"]["sum"]) == (12.0, 1.0)
    text = capsys.readouterr().out
    assert "| little | 12.0 ± 1.0 | 12.5 | 7.00 ± 0.00 |" in text
    assert "| much & more | **15.0 ± 0.0** |  |  |" in text
    assert "Published: Somebody 2001, table 2." in text
    tex = (place / "runs" / "tables" / "sums" / "table.tex").read_text()
    assert r"much \& more & \textbf{15.0 $\pm$ 0.0} &  &  \\" in tex
    assert r"sum, \% & published & v\_b" in tex
    for record in figures(place)["cells"].values():
        assert record["command"].startswith("uv run python -m toy.work --name=second-")
        assert record["hardware"]["cpu"]
    assert reproduce.main(["--table=sums.yaml"]) == 0
    assert sorted(calls(place)) == ALL


@pytest.mark.long
def test_some_rows_alone(place, capsys):
    assert reproduce.main(["--table=sums.yaml", "--only", "much & more"]) == 0
    assert sorted(calls(place)) == sorted([f"first-{s}" for s in (1, 2, 3)] + [f"second-much-{s}" for s in (1, 2, 3)])
    kept = json.loads((place / "runs" / "tables" / "sums-some" / "table.json").read_text())
    assert [row["name"] for row in kept["rows"]] == ["much & more"]
    assert kept["command"].endswith("--only 'much & more'")
    assert reproduce.main(["--table=sums.yaml", "--only", "much"]) == 2
    assert "only=much: sums has the rows little; much & more" in capsys.readouterr().err


@pytest.mark.long
def test_a_changed_setting_does_again_what_depends_on_it_and_nothing_else(place):
    reproduce.main(["--table=sums.yaml", "--parallel=2"])
    (place / "sums.yaml").write_text(TABLE.replace("more: 5}", "more: 6}"))
    reproduce.main(["--table=sums.yaml", "--parallel=2"])
    assert sorted(calls(place)[9:]) == [f"second-much-{s}" for s in (1, 2, 3)]
    reproduce.main(["--table=sums.yaml", "--parallel=2", "--set", "base=20"])
    assert sorted(calls(place)[12:]) == ALL
    reproduce.main(["--table=sums.yaml", "--parallel=2"])
    assert len(calls(place)) == 21  # the old ones are still there


@pytest.mark.long
def test_what_fails_is_shown_tried_again_and_blocks_what_needs_it(place, capsys):
    (place / "broken").write_text("first-2")
    assert reproduce.main(["--table=sums.yaml"]) == 1
    assert calls(place).count("first-2") == 2
    assert not [call for call in calls(place) if call.startswith("second") and call.endswith("-2")]
    out, err = capsys.readouterr()
    assert "… (2 of 3)" in out
    assert "failed: first base=10, seed=2, sleep=0: it is broken" in err
    log = Path(re.search(r"(\S+\.log)", err)[1])
    assert log.read_text().count("it is broken") == 2
    (place / "broken").unlink()
    before = len(calls(place))
    assert reproduce.main(["--table=sums.yaml"]) == 0
    assert sorted(calls(place)[before:]) == ["first-2", "second-little-2", "second-much-2"]


@pytest.mark.long
def test_two_runners_never_do_a_cell_twice(place):
    runners = [begin(place, "--parallel=2", "--set", "sleep=0.2") for _ in range(2)]
    for runner in runners:
        _, err = runner.communicate(timeout=120)
        assert runner.returncode == 0, err
    assert sorted(calls(place)) == ALL


@pytest.mark.long
@pytest.mark.parametrize("after", shortened([1.1, 0.3, 1.9]))
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_any_moment_it_goes_on_to_the_same_table(place, number, after):
    runner = begin(place, "--parallel=2", "--set", "sleep=0.4")
    while not calls(place):
        time.sleep(0.01)
    time.sleep(after)
    runner.send_signal(number)
    _, err = runner.communicate(timeout=60)
    assert runner.returncode in (75, -number, 0), err
    if number == signal.SIGTERM and runner.returncode:
        assert "the same command resumes" in err
        for busy in place.rglob("busy"):
            busy.unlink()  # the toy, unlike our tools, leaves a mess when it is stopped
    runner = begin(place, "--parallel=2", "--set", "sleep=0.4")
    _, err = runner.communicate(timeout=120)
    assert runner.returncode == 0, err
    rows = {row["name"]: row["values"]["sum"] for row in figures(place)["rows"]}
    assert rows == {"little": [11.0, 12.0, 13.0], "much & more": [15.0, 15.0, 15.0]}


PREEMPTED = """
import os, signal, sys, threading, time
from experiments.launchers import SlurmJob
from experiments.table_file import load

cell, job = load("sums.yaml", changes={"sleep": 60}).cells[0].needs[0][1], SlurmJob()
signal.signal(signal.SIGUSR1, lambda *_: print("queued again:", type(job.checkpoint(cell)).__name__, flush=True))

def preempt():
    while not (job.process and list(cell.out.glob("busy"))):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGUSR1)

threading.Thread(target=preempt).start()
print(job(cell))
"""


def test_a_preempted_job_stops_its_tool_and_is_queued_again(place):
    """As submitit asks for it: from a signal's handler, in the thread that waits for the tool."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(place)])}
    ended = subprocess.run([sys.executable, "-c", PREEMPTED], cwd=place, env=environment, timeout=60, capture_output=True,
                           text=True)
    assert ended.stdout.split("\n")[:2] == ["queued again: DelayedSubmission", "stopped"], ended.stderr


def test_a_job_whose_tool_hangs_is_queued_again_while_there_is_time(place, monkeypatch):
    cell, job = load("sums.yaml").cells[0].needs[0][1], launchers.SlurmJob()
    monkeypatch.setattr(launchers.slurm, "NOTICE", 0.2)
    job.process = subprocess.Popen(["sleep", "600"])
    job.process.send_signal(signal.SIGSTOP)
    os.waitpid(job.process.pid, os.WUNTRACED)  # until it is
    assert type(job.checkpoint(cell)).__name__ == "DelayedSubmission"
    assert job.process.wait() == -signal.SIGKILL
    assert type(job.checkpoint(cell)).__name__ == "DelayedSubmission"  # one that has ended


@pytest.mark.parametrize(("goes_on", "ended"), [(True, SystemExit), (False, None)])
def test_a_job_whose_tool_was_stopped_leaves_no_result_where_slurm_has_it_go_on(place, goes_on, ended, monkeypatch):
    """A result would make the runner submit another job beside it."""
    cell, job = load("sums.yaml").cells[0].needs[0][1], launchers.SlurmJob()
    monkeypatch.setattr(launchers, "run_cell", lambda *_: State.STOPPED)
    monkeypatch.setattr(launchers.slurm, "settle", lambda: None)
    monkeypatch.setattr(launchers.slurm, "requeue", lambda: goes_on)
    if ended is None:
        assert job(cell) == "stopped"
    else:
        with pytest.raises(ended):
            job(cell)


@pytest.mark.parametrize("number", STOPPING)
def test_a_tool_that_a_signal_ends_is_begun_again(place, number):
    """Whatever its exit code says: 75, the signal, or what a shell makes of it."""
    from experiments.cells import STOPPED

    assert {75, -number, 128 + number} <= set(STOPPED)


@pytest.mark.parametrize("name", shortened(["SIGUSR2", "SIGHUP"]))
def test_a_runner_that_is_asked_to_stop_stops_its_tools(place, name):
    runner = begin(place, "--parallel=2", "--set", "sleep=60")
    while len(calls(place)) < 2:
        assert runner.poll() is None
        time.sleep(0.05)
    runner.send_signal(signal.Signals[name])
    _, err = runner.communicate(timeout=100)
    assert runner.returncode == 75, err
    assert err.splitlines()[-1] == "stopped: the same command resumes"
    assert "Traceback" not in err


def test_without_a_cluster_it_is_one_line(place, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(place))  # this machine may have SLURM's commands
    assert reproduce.main(["--table=sums.yaml", "--launcher=slurm"]) == 2
    assert "error: launcher=slurm:" in capsys.readouterr().err
    assert not calls(place)


@pytest.mark.long
def test_a_cluster_does_it_too(place):
    """submitit, with processes of this machine in SLURM's place."""
    table = load("sums.yaml", smoke=True)
    cluster = launchers.SlurmLauncher({"timeout_min": 2}, cluster="local")
    ended = run_cells(table.cells, cluster, lambda *_: None)
    assert set(ended.values()) == {"done"}
    assert sorted(calls(place)) == ["first-1", "second-little-1", "second-much-1"]
    assert table.result().rows[0].values["sum"] == [2.0]


@pytest.mark.long
def test_figures_are_drawn_too_and_kept(place, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "MEASURED", place / "kept")
    (place / "broken").write_text("second-little-2")
    assert reproduce.main(["--table=sums.yaml", "--parallel=2", "--keep"]) == 1
    assert not (place / "kept").exists()  # half of a table
    (place / "broken").unlink()
    figures = "{sums: {kind: comparison, columns: [sum]}, first: {kind: curves, runs: {a: '{first.scores}'}, show: [value]}}"
    (place / "sums.yaml").write_text(f"{TABLE}figures: {figures}\n")
    assert reproduce.main(["--table=sums.yaml", "--parallel=2", "--keep"]) == 0
    kept = {path.name: path.read_bytes() for path in (place / "kept").iterdir() if path.is_file()}
    assert sorted(kept) == ["sums-first.png", "sums-sums.png", "sums.json", "sums.md"]
    assert (place / "runs" / "tables" / "sums" / "sums.pdf").exists()
    shutil.rmtree(place / "runs")  # what is kept is enough to draw it again
    assert make.main(["--table", str(place / "kept" / "sums.json"), "--out", "again"]) == 0
    for name in ("sums", "first"):
        assert (place / "again" / f"{name}.png").read_bytes() == kept[f"sums-{name}.png"]


def test_smoke_dry_run_and_print(place, capsys):
    assert reproduce.main(["--table=sums.yaml", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "9 cells, 0 done; 24 minutes of two cores to go" in out
    assert calls(place) == []
    (place / "sums.yaml").write_text(TABLE.replace("    minutes: 2\n", ""))
    assert reproduce.main(["--table=sums.yaml", "--dry-run"]) == 0
    assert "9 cells, 0 done; the cost of the others is not measured" in capsys.readouterr().out
    (place / "sums.yaml").write_text(TABLE)
    assert reproduce.main(["--table=sums.yaml", "--launcher=print"]) == 0
    commands = capsys.readouterr().out.strip().splitlines()
    assert len(commands) == 9
    for i, line in enumerate(commands):
        if before := re.search(r"--before=(\S+)/result.json", line):
            assert any(f"--out={before[1]}" in earlier for earlier in commands[:i])
    assert reproduce.main(["--table=sums.yaml", "--smoke"]) == 0
    assert "| little | 2.0 | 12.5 | 7.00 |" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "said"), [
    (("title: Sums", "titel: Sums"), "a table has title, cells, columns and rows"),
    (("about:", "abuot:"), "the table has abuot; it may have about"),
    (("{first.scores}", "{frist.scores}"), "there is no cell frist; there are first, second"),
    (("{first.scores}", "{first.score}"), "writes scores, record; no score"),
    (("{first.scores}", "{second.scores}"), "cell second needs itself: second → second"),
    (('"{base}"', '"{bass}"'), "there is no variable bass; there are base, sleep, kind, more, seed"),
    (("sum: \"{second.scores}#value\", v", "som: \"{second.scores}#value\", v"), "has a value for som, which is no column"),
    (("{second.scores}#value", "{second.score}#value"), "writes scores, record; no score"),
    (("  - name: little\n", "  - nome: little\n"), "must have name"),
    (("    tool: toy.work\n", ""), "cell second must have files, settings, tool"),
    (("{second.scores}#value", "second.scores"), "a value is written {cell.file}#path"),
    (("title: Sums", "title: [Sums"), "is no yaml"),
])
def test_a_mistake_in_a_table_is_one_line(place, change, said, capsys):
    assert change[0] in TABLE
    (place / "sums.yaml").write_text(TABLE.replace(*change))
    assert reproduce.main(["--table=sums.yaml"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert calls(place) == []


@pytest.mark.parametrize(("words", "said"), [
    (["--table=none"], "table=none: there are "),
    (["--table=sums.yaml", "--set", "bass=1"], "sums.yaml has no variable bass; it has base, sleep, seeds"),
    (["--table=sums.yaml", "--set", "base"], "set=base: written NAME=VALUE"),
    (["--table=sums.yaml", "--set", "seeds=3"], "seeds=3: must be a list"),
    (["--table=sums.yaml", "--set", "base=[1"], "set=base=[1: a value is no yaml"),
    (["--table=sums.yaml", "--smoke", "--keep"], "keep: a smoke table"),
    (["--table=sums.yaml", "--parallel=-1"], "parallel=-1: must be 0 or more"),
])
def test_a_mistake_is_one_line(place, words, said, capsys):
    assert reproduce.main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.long
def test_every_table_of_ours_says_what_its_tools_understand(monkeypatch):
    """Each command of each table, put together by the tool's own configuration."""
    import importlib

    from core import cli

    monkeypatch.chdir(ROOT)
    tables = sorted((ROOT / "experiments" / "tables").glob("*.yaml"))
    assert len(tables) >= 8
    for path in tables:
        for smoke in (False, True):
            table = load(str(path), smoke)
            values = [value for row in table.rows for by_seed in row.values.values() for value in by_seed]
            assert all(value.file in {"record", *dict(value.cell.files)} for value in values)
            for cell in {c.name.split(" ")[0] + c.module + str(sorted(w.split("=")[0] for w in c.arguments)): c
                         for c in ordered(table.cells)}.values():
                module = importlib.import_module(cell.module)
                if cell.module.startswith("experiments."):  # an experiment of its own, with argparse's words
                    assert module.main
                    continue
                tool = module.TOOL
                words, _ = cli.parse(cell.command[2:], tool.settings)
                words, _ = cli.with_recipe(tool, words)
                cli.check_choices(tool, words)
                cli.compose(tool, words)
            assert "tabular" in latex(table.result())
