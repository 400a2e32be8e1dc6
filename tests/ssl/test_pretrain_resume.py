"""Never lose a run: stopped in any way and started again, it ends with the bytes of the run that was left alone."""
import json
import random
import re
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, Started, run, shortened, start
from PIL import Image

from core import checkpoint

STEPS = 12
OFTEN = ["--save_minutes=0.0001", f"--steps={STEPS}"]  # 6 ms: after every step
METHODS = {
    "simclr": ["--method=simclr"],
    "moco_v2": ["--method=moco_v2", "--method.queue_size=64", "--method.bn_splits=2"],
    "moco_v3": ["--method=moco_v3"],
}


def result(out: Path) -> tuple[bytes, list[dict]]:
    """The encoder's bytes, and every logged row without what a clock says."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    clock = {"images_per_second", "waiting_for_data"}
    return (out / "encoder.safetensors").read_bytes(), [{k: v for k, v in r.items() if k not in clock} for r in rows]


def whole(words: list, out: Path) -> tuple[bytes, list[dict]]:
    ended = run(*words, f"--out={out}", logs=out.with_name(out.name + "-logs"))
    assert ended.code == 0, ended.err
    encoder, rows = result(out)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return encoder, rows


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Method → what its uninterrupted run left; each is run once."""
    folder, known = tmp_path_factory.mktemp("alone"), {}

    def of(method: str):
        if method not in known:
            known[method] = whole([*SMALL, *OFTEN, *METHODS[method]], folder / method)
        return known[method]

    return of


def interrupted(words: list, out: Path, number: int, at: int) -> Started:
    process = start(*words, f"--out={out}", logs=out.with_name("first"))
    process.until(out / "metrics.jsonl", at)
    process.send(number)
    return process


@pytest.mark.parametrize("method", shortened(METHODS))
def test_killed_at_a_random_step(tmp_path, alone, method):
    words, out, at = [*SMALL, *OFTEN, *METHODS[method]], tmp_path / "run", random.SystemRandom().randint(1, 7)
    expected = alone(method)
    assert interrupted(words, out, signal.SIGKILL, at).wait().code == -signal.SIGKILL
    assert not (out / "encoder.safetensors").exists()
    killed = f".last.pt.{socket.gethostname()}.{2**22 + 1}.tmp"  # a process number beyond all that Linux gives
    (out / killed).write_bytes(b"half")  # as a kill in the middle of a write leaves it
    assert whole(words, out) == expected, f"killed at step {at}"
    assert not list(out.glob(".*.tmp"))


@pytest.mark.long
@pytest.mark.parametrize(("method", "name"), [("simclr", "SIGINT"), ("moco_v2", "SIGTERM"), ("moco_v3", "SIGUSR1")])
def test_stopped_by_a_signal(tmp_path, alone, method, name):
    """It saves at that very step though no save is due, and ends with the code that a scheduler requeues."""
    words, out = [*SMALL, f"--steps={STEPS}", *METHODS[method]], tmp_path / "run"
    ended = interrupted(words, out, signal.Signals[name], 3).wait()
    assert ended.code == 75
    said = re.search(r"^stopped by a signal at step (\d+) of 12; saved: the same command resumes$", ended.err, re.M)
    state = checkpoint.load(out / "last.pt")
    assert 3 <= state["step"] == int(said[1]) < STEPS
    assert whole(words, out) == alone(method)


@pytest.mark.long
def test_twice_stopped(tmp_path, alone):
    words, out = [*SMALL, f"--steps={STEPS}"], tmp_path / "run"
    for at in (2, 6):
        assert interrupted(words, out, signal.SIGTERM, at).wait().code == 75
    assert whole(words, out) == alone("simclr")


@pytest.mark.long
def test_a_folder_whose_images_are_decoded_by_a_worker(tmp_path):
    """40 images of all sizes, 5 steps an epoch: the run stops in the second one."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(40):
        pixels = rng.integers(0, 256, (*rng.integers(9, 30, 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    words = [*SMALL[2:], f"--steps={STEPS}", "--data=folder", f"--data.root={tmp_path / 'photos'}", "--batch_size=7"]
    words += ["--workers=1", "--image_size=16"]
    expected = whole(words, tmp_path / "alone")
    assert interrupted(words, tmp_path / "run", signal.SIGTERM, 7).wait().code == 75
    assert whole(words, tmp_path / "run") == expected
    assert whole([*words, "--workers=0"], tmp_path / "none") == expected, "workers change nothing"


def test_a_full_disk_ends_the_run_in_one_line_and_keeps_the_last_save(tmp_path):
    """No file may grow beyond the limit: the first last.pt fits, and then the limit is lowered for the second run."""
    words, out = [*SMALL, f"--steps={STEPS}"], tmp_path / "run"
    assert interrupted(words, out, signal.SIGTERM, 3).wait().code == 75
    before = (out / "last.pt").read_bytes()
    ended = run(*words, "--save_minutes=0.0001", f"--out={out}", logs=tmp_path / "full", LARGEST_FILE=str(100_000))
    assert ended.code == 1
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"no room to write {out / 'last.pt'}" in errors[0]
    assert "Traceback" not in ended.err
    assert (out / "last.pt").read_bytes() == before
    assert not list(out.glob(".*.tmp"))
    assert checkpoint.load(out / "last.pt")["step"] >= 3


@pytest.mark.slow
def test_paused_at_so_many_epochs_and_gone_on_with(tmp_path, alone):
    """1,440 images make 90 steps of 16: .05 of an epoch is step 4 (4.5, to the even one). Pictures and scores are left out."""
    words = [*SMALL, *OFTEN, *METHODS["simclr"], f"--out={tmp_path / 'run'}", "--report=false"]
    ended = run(*words, "--pause_at=0.05", logs=tmp_path / "first")
    assert ended.code == 0, ended.err
    assert "paused at step 4 of 12" in ended.err
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {
        ".lock", "config.yaml", "identity.json", "encoder.safetensors", "method.safetensors", "last.pt", "metrics.jsonl"
    }
    assert run(*words, logs=tmp_path / "second").code == 0
    assert result(tmp_path / "run") == alone("simclr")
