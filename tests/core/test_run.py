"""A run's folder: whose it is, what is kept of it, what a second start makes of it."""
import contextlib
import json
import os
import pty
import re
import sys
import time

import pytest
import torch
from torch import nn

from core.run import ProgressBar, Run, another, way_out

SETTINGS = {"method": {"dim": 8}, "seed": 0, "out": "x", "chosen": {"method": "simclr"}}


def parts():
    method = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(method.parameters(), 0.1, 0.9)
    method(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return method, optimizer


def begun(folder, settings=SETTINGS, **words) -> Run:
    run = Run(folder, settings, **words)
    run.begin()
    return run


def saved(folder, step=4):
    """A run of 6 logged steps that was killed after step 6 and had saved step 4."""
    run = begun(folder)
    method, optimizer = parts()
    for done in range(1, 7):
        run.log(done, {"loss": 1 / done})
        if done == step:
            run.save(done, method, optimizer, {"history": [1]})
    return method, optimizer


def contents(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_goes_on_from_the_last_save_and_logs_each_step_once(tmp_path):
    method, optimizer = saved(tmp_path / "run")
    run = begun(tmp_path / "run")
    assert run.step == 4
    new, other = parts()
    assert run.restore(new, other) == {"history": [1]}
    assert torch.equal(new.weight, method.weight)
    assert torch.equal(other.state[new.weight]["momentum_buffer"], optimizer.state[method.weight]["momentum_buffer"])
    run.log(5, {"loss": 0.2})
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5]


def test_a_row_that_a_kill_cut_short_is_forgotten(tmp_path):
    saved(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    run = begun(tmp_path)
    run.log(5, {"loss": 0.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]


def test_a_run_killed_before_its_first_save_starts_again(tmp_path):
    saved(tmp_path, step=None)
    run = begun(tmp_path)
    assert (run.step, run.metrics(), run.restore(*parts())) == (0, [], None)


def test_figures_keep_the_digits_that_float32_has(tmp_path):
    run = begun(tmp_path)
    run.log(1, {"lr": 1.5e-7, "loss": 3.14159265, "gradient_norm": float("inf"), "count": 3})
    assert run.metrics() == [{"step": 1, "lr": 1.5e-7, "loss": 3.1415927, "gradient_norm": "inf", "count": 3}]


@pytest.mark.parametrize("step", [4, None])  # saved, or killed before that
def test_another_configuration_is_refused_with_the_difference(tmp_path, step):
    saved(tmp_path, step)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"out=.*another configuration \(method.dim: 8 → 9; seed: 0 → 1\)"):
        Run(tmp_path, {"method": {"dim": 9}, "seed": 1, "out": "x"})
    assert contents(tmp_path) == before


def test_where_it_runs_may_change(tmp_path):
    saved(tmp_path)
    assert Run(tmp_path, SETTINGS | {"out": "y", "devices": 8}).step == 4


@pytest.mark.parametrize("step", [4, None])
def test_resume_never_touches_nothing(tmp_path, step):
    saved(tmp_path, step)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"out=.* holds a run already"):
        Run(tmp_path, SETTINGS, resume="never")
    assert contents(tmp_path) == before
    assert begun(tmp_path / "new", resume="never").step == 0


@pytest.mark.parametrize("name", ["encoder.safetensors", "metrics.jsonl", "report.md", "curves.png"])
def test_a_folder_with_anothers_files_is_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {name}"):
        Run(tmp_path, SETTINGS)
    assert contents(tmp_path) == {name: b"mine"}


def test_anothers_config_yaml_is_refused(tmp_path):
    for text in ("batch: 3\n", "- 1\n", "a: [", "word\n"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match="give another out"):
            Run(tmp_path, SETTINGS)
        assert contents(tmp_path) == {"config.yaml": text.encode()}


def test_other_images_are_refused_and_the_same_ones_resume(tmp_path):
    """Wherever they lie, as `data.root` is no part of it; what an older version left has nothing to compare."""
    images = {"images.train": "40 images, 00"}
    run = Run(tmp_path, SETTINGS, images=images)
    run.begin()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"another configuration \(images.train: 40 images, 00 → 41 images, 01\)"):
        Run(tmp_path, SETTINGS, images={"images.train": "41 images, 01"})
    assert contents(tmp_path) == before
    run.save(4, *parts(), {})
    assert Run(tmp_path, SETTINGS, images=images).step == 4
    with pytest.raises(ValueError, match=r"images.train"):
        Run(tmp_path, SETTINGS, images={"images.train": "41 images, 01"})


def test_images_of_an_older_run_are_a_note_once(tmp_path, capsys):
    saved(tmp_path)  # without images, as versions before wrote it
    (tmp_path / "identity.json").unlink()
    images = {"images.train": "40 images, 00"}
    run = Run(tmp_path, SETTINGS, images=images)
    run.begin()
    assert "kept no fingerprint of its images" in capsys.readouterr().err
    run.save(5, *parts(), {})
    Run(tmp_path, SETTINGS, images=images).begin()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["encoder.safetensors", "classifier.safetensors"])
def test_a_finished_run_without_its_last_pt_is_not_begun_again(tmp_path, name):
    saved(tmp_path)
    (tmp_path / name).write_bytes(b"trained for a week")
    (tmp_path / "last.pt").unlink()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"finished run \({name}\) without its last.pt"):
        Run(tmp_path, SETTINGS)
    assert contents(tmp_path) == before


def test_a_folder_that_another_command_changed_after_the_look_is_refused(tmp_path):
    """Two commands look at once; the second to begin would go back to what it saw."""
    first, second = Run(tmp_path, SETTINGS), Run(tmp_path, SETTINGS)
    first.begin()
    first.save(4, *parts(), {})
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="changed by another command meanwhile"):
        second.begin()
    assert contents(tmp_path) == before


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=r"out=.*file is a file, not a folder"):
            Run(out, SETTINGS)
    with pytest.raises(ValueError, match=r"out=/proc/run cannot be written"):
        begun("/proc/run")  # not even root can write there


def test_looking_at_a_folder_writes_nothing(tmp_path):
    Run(tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path):
    saved(tmp_path)
    run = begun(tmp_path)
    with pytest.raises(ValueError, match=r"last.pt does not fit: .*give another out"):
        run.restore(nn.Linear(5, 5), parts()[1])


def test_the_folder_that_is_advised_is_free(tmp_path):
    assert another(tmp_path / "run") == f"give another out, such as out={tmp_path / 'run-2'}"
    (tmp_path / "run-2").mkdir()
    assert another(tmp_path / "run").endswith("run-3")


@pytest.mark.parametrize(("changes", "finished", "expected"), [
    (["epochs: 3.0 → 5.0"], False, "epochs=3.0 resumes it, or give another out"),
    (["epochs: 3.0 → 5.0", "steps: None → 9"], True, "to train on from its weights say encoder="),
    (["epochs: 3.0 → 5.0", "seed: 0 → 1"], True, "give another out"),
    (["optim.lr: 0.1 → 0.2"], False, "give another out"),
])
def test_the_way_out_of_another_configurations_folder(tmp_path, changes, finished, expected):
    if finished:
        (tmp_path / "encoder.safetensors").touch()
    way = way_out(tmp_path, changes)
    assert expected in way
    assert "give another out, such as out=" in way
    assert ("encoder=" in way) == (finished and len([c for c in changes if c.startswith(("epochs", "steps"))]) == len(changes))


def test_a_bar_elsewhere_than_on_a_terminal_is_a_line_now_and_then(capsys):
    bar = ProgressBar(100, 0, "simclr")
    for step in range(1, 101):
        bar.log(step, {"step": step, "loss": 2.5, "images_per_second": 640.0, "knn": 97.25})
        bar.tick(step)
    bar.close()
    assert capsys.readouterr().err == "step 100/100  loss 2.500  640 images/s  kNN 97.2 %  0.0 min to go\n"


def test_a_bar_on_a_terminal_moves_with_every_step(tmp_path):
    """On a pseudo-terminal, as a person sees it; the figures are logged once, at step 2 of 5."""
    child, terminal = pty.fork()
    if not child:
        os.environ |= {"COLUMNS": "120", "TERM": "xterm"}
        os.dup2(os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT), 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        bar = ProgressBar(5, 0, "simclr")
        for step in range(1, 6):
            time.sleep(0.3)
            if step == 2:
                bar.log(step, {"loss": 2.5, "images_per_second": 640.0})
            bar.tick(step)
        bar.close()
        os._exit(0)
    seen = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(terminal, 4096):
            seen += part
    assert os.waitpid(child, 0)[1] == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    assert (tmp_path / "out").read_bytes() == b"", "standard output is for results"
    assert "5/5" in text
    assert len(set(re.findall(r"(\d)/5", text))) >= 4, "drawn four times a second"
    assert "loss 2.500  640 images/s" in text
    assert re.search(r"0:00:0[1-3]", text), "time to go"
