"""A user's mistake: one line that names the option and the fix, exit code 2, nothing written."""
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SMALL, real, run
from PIL import Image


def images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return folder


def contents(folder: Path) -> dict:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    ended = run(*SMALL, "--steps=2", f"--out={folder / 'run'}", logs=folder)
    assert ended.code == 0, ended.err
    return folder / "run"


WORDS = {
    ("--method=simclear",): ("method=simclear", "did you mean simclr?"),
    ("--encoder=resnet81",): ("encoder=resnet81", "resnet18"),
    ("--encoder=gone.safetensors",): ("encoder=gone.safetensors", "no such file"),
    ("--batch_size=2000",): ("batch_size=2000", "1440 images"),
    ("--batch_size=1",): ("batch_size=1", "2 images at least"),
    ("--batch_size=15", "--devices=2"): ("batch_size=15", "devices=2"),
    ("--accumulate=3",): ("accumulate=3", "equal pieces"),
    ("--chunk=3",): ("chunk=3", "must divide the 16 images"),
    ("--chunk=1",): ("chunk=1", "2 at least"),
    ("--chunk=8", "--accumulate=2"): ("chunk=8", "accumulate"),
    ("--epochs=0",): ("epochs=0", "more than 0"),
    ("--steps=0",): ("steps=0", "more than 0"),
    ("--devices=0",): ("devices=0", "more than 0"),
    ("--evals=0",): ("evals=0", "more than 0"),
    ("--clip=-1",): ("clip=-1", "more than 0"),
    ("--workers=-2",): ("workers=-2", "-1"),
    ("--seed=-1",): ("seed=-1",),
    ("--optim.lr=0",): ("optim.lr=0", "more than 0"),
    ("--optim.lr=nan",): ("optim.lr=nan", "a finite number of at most 1e+30"),
    ("--optim.momentum=1",): ("optim.momentum=1", "less than 1"),
    ("--optim.warmup=1",): ("optim.warmup=1", "less than 1"),
    ("--optim.weight_decay=-0.1",): ("optim.weight_decay=-0.1", "0 or more"),
    ("--optim.betas=[0.9]",): ("optim.betas=[0.9]", "two numbers"),
    ("--optim.name=adam",): ("optim.name=adam", "adamw"),
    ("--precision=fp16",): ("precision=fp16", "bf16"),
    ("--stem=tiny",): ("stem=tiny", "small"),
    ("--resume=yes",): ("resume=yes", "never"),
    ("--device=tpu",): ("device=tpu", "cuda"),
    ("--method.temperature=0",): ("method.temperature=0",),
    ("--method.hidden=0",): ("method.hidden=0",),
    ("--method.dim=-1",): ("method.dim=-1",),
    ("+method.depth=3",): ("method=simclr", "'depth'"),
    ("--method._target_=nowhere.Method",): ("method._target_=nowhere.Method",),
    ("--method=moco_v2", "--method.queue_size=0"): ("method.queue_size=0",),
    ("--method=moco_v2", "--method.momentum=[0.9,1.5]"): ("method.momentum",),
    ("--method=moco_v2", "--method.bn=shufle"): ("method.bn=shufle", "shuffle"),
    ("--method=moco_v2", "--method.bn_splits=0"): ("method.bn_splits=0",),
    ("--method=moco_v2", "--method.bn_splits=5"): ("method.bn_splits",),
    ("--method=moco_v3", "--method.projector_layers=0"): ("method.projector_layers=0",),
    ("--method=moco_v3_vit",): ("moco_v3_vit", "vision transformer"),
    ("--method=supcon",): ("method=supcon needs labels", "data=synthetic"),
    ("--method=swav", "--method.epsilon=-1"): ("method.epsilon=-1",),
    ("--augment.local.views=-1",): ("augment.local.views=-1",),
    ("--augment.local.size=3",): ("augment.local.size=3",),
    ("--optim.bias_scale=-1",): ("optim.bias_scale=-1", "0 or more"),
    ("--augment.crop=[0.9,0.2]",): ("augment.crop",),
    ("--augment.crop=0.2",): ("augment.crop",),
    ("--augment.crop=[0.2,1.0",): ("augment.crop",),
    ("--augment.flip=2",): ("augment.flip",),
    ("--augment.flip=often",): ("augment.flip",),
    ("--augment.views=3",): ("augment.views",),
}


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_wrong_words(tmp_path, words):
    ended = run(*SMALL, *words, f"--out={tmp_path / 'run'}", logs=tmp_path / "logs")
    assert ended.code == 2, ended.err
    assert ended.line.startswith("error: ")
    assert all(part in ended.line for part in WORDS[words]), ended.line
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_no_cuda_device(tmp_path):
    ended = run(*SMALL, "--device=cuda", f"--out={tmp_path / 'run'}", logs=tmp_path / "logs")
    assert (ended.code, "device=cpu" in ended.line) == (2, True)


@pytest.mark.parametrize("kind", ["missing", "empty", "texts", "file", "unsaid", "few"])
def test_folders_that_cannot_be_trained_on(tmp_path, kind):
    root = tmp_path / "photos"
    expected = {"missing": "does not exist", "empty": "is empty", "texts": "3 .txt", "file": "is a file"}
    expected |= {"unsaid": "needs data.root", "few": "batch_size=16 is larger than the data"}
    match kind:
        case "empty":
            root.mkdir()
        case "texts":
            root.mkdir()
            for name in "abc":
                (root / f"{name}.txt").write_text("no image")
        case "file":
            root.write_text("no folder")
        case "few":
            images(root, 6)
    where = [] if kind == "unsaid" else [f"--data.root={root}"]
    before = contents(tmp_path)
    words = ["--data=folder", *where, "--encoder=test_resnet", "--image_size=8", "--batch_size=16"]
    ended = run(*words, f"--out={tmp_path / 'run'}", logs=tmp_path / "logs")
    assert (ended.code, expected[kind] in ended.line) == (2, True), ended.line
    assert kind == "few" or "data.root" in ended.line
    written = contents(tmp_path).keys() - before.keys()
    assert all(path.startswith(str(tmp_path / "logs")) for path in written)


@pytest.mark.parametrize("kind", ["text", "truncated", "foreign"])
def test_an_encoder_file_that_is_none(tmp_path, finished, kind):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    if kind == "foreign":
        save_file({"weight": torch.zeros(2, 2)}, path)
    else:
        whole = (finished / "encoder.safetensors").read_bytes()
        path.write_bytes(b"hello" if kind == "text" else whole[: len(whole) // 2])
    ended = run(*SMALL, f"--encoder={path}", f"--out={tmp_path / 'run'}", logs=tmp_path / "logs")
    assert (ended.code, f"encoder={path}" in ended.line) == (2, True), ended.line
    assert not (tmp_path / "run").exists()


FOLDERS = {
    "another configuration": (["--seed=1"], "seed: 0 → 1"),
    "never": (["--resume=never"], "resume=auto"),
    "truncated": ([], "last.pt cannot be read as a checkpoint"),
    "foreign": ([], "last.pt is not a checkpoint of nolabel"),
    "file": ([], "is a file, not a folder"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_run_folders_that_must_not_be_touched(tmp_path, finished, kind):
    out = tmp_path / "run"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        for file in finished.iterdir():
            (out / file.name).write_bytes(file.read_bytes())
    if kind == "truncated":
        (out / "last.pt").write_bytes((out / "last.pt").read_bytes()[:1000])
    if kind == "foreign":
        torch.save({"model": {}}, out / "last.pt")
    before = contents(tmp_path)
    more, expected = FOLDERS[kind]
    ended = run(*SMALL, "--steps=2", *more, f"--out={out}", logs=tmp_path / "logs")
    assert ended.code == 2
    assert expected in ended.line
    assert str(out) in ended.line
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    assert all(path.startswith(str(tmp_path / "logs")) for path in after.keys() - before.keys())


def test_a_finished_run_that_is_to_be_longer_is_answered_with_the_way_that_works(tmp_path, finished):
    ended = run(*SMALL, "--steps=3", f"--out={finished}", logs=tmp_path / "logs")
    assert ended.code == 2
    encoder, other = finished / "encoder.safetensors", finished.with_name("run-2")
    assert f"steps=2 resumes it; to train on from its weights say encoder={encoder} and give another out" in ended.line
    assert ended.line.endswith(f"such as out={other}")
    ended = run(*SMALL, "--steps=3", f"--encoder={encoder}", f"--out={other}", logs=tmp_path / "logs")
    assert ended.code == 0, ended.err


def test_a_finished_run_is_reported_again_and_stays_as_it_is(tmp_path, finished):
    before = {name: (finished / name).read_bytes() for name in ("encoder.safetensors", "metrics.jsonl", "last.pt")}
    ended = run(*SMALL, "--steps=2", f"--out={finished}", logs=tmp_path)
    assert ended.code == 0
    assert "finished" in ended.err
    assert {name: (finished / name).read_bytes() for name in before} == before


def test_as_a_user_types_it(tmp_path):
    """The real command, from a fresh interpreter."""
    process = real("--method", "simclear")
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", 2)
    assert err.startswith("error: method=simclear: there are")
    assert err.count("\n") == 1
