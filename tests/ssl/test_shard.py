"""`shard`: several processes that hold rows of everything are one: gradients, clipping, optimizers, teacher, resumed runs.

Oracle: one process, in float64, to 1e-10, as in test_parity.py; loop, run folder and files are those of ssl.pretrain.
"""
import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch
from processes import on
from small_methods import NAMES, batch, made, words_of
from timm.layers import LayerScale
from torch import Tensor

from core import loop, optim
from core.dropout import per_image
from core.method import Method
from core.processes import full, is_main, is_sharded, wrap
from core.run import Run
from core.shard import WholeEncoder, shard_
from ssl import method_file
from vision import artifact

CPU = torch.device("cpu")
STEPS = 3
VIT = ("encoder=test_vit", "image_size=32")
CASES = [
    ("simclr", *VIT, "optim.name=lars", "optim.lr=0.1"),
    ("mae", "optim.name=lamb", "clip=0.05"),
    ("dinov2", "optim.name=adamw", "clip=0.5", "clip_by=module", "method.freeze_last=0.4"),
]
CHUNKS = ("dinov2", "optim.name=sgd", "optim.lr=0.1")


def method_of(case: tuple[str, ...]) -> Method:
    method = per_image(made(*case, dtype=torch.float64))
    for layer in (module for module in method.modules() if isinstance(module, LayerScale)):
        torch.nn.init.ones_(layer.gamma)  # else features hardly depend on the image, and differences are all rounding
    return method


def trained(case: tuple[str, ...], folder: str, shard: bool = False, **changes) -> dict[str, Tensor]:
    """Whole tensors of gradients, method and optimizer after some steps of the real loop from where the folder's run stands."""
    words, method = words_of(*case), method_of(case)
    if shard:
        shard_(method, CPU, in_chunks="chunk" in changes)
    optimizer = optim.build(method, words.optim, words.optim.lr)
    run, seen = Run(folder, {}), Seen(method)
    run.restore(method, optimizer)
    run.begin()
    config = loop.TrainConfig(
        steps=STEPS, steps_an_epoch=STEPS, batch_size=16, evals=frozenset(), rate=lambda progress: words.optim.lr,
        clip=words.clip, clip_by=words.clip_by, hook=seen, log_every=1,
    )
    views = (batch(case[0], step, torch.float64, size=words.image_size) for step in range(run.step, STEPS))
    loop.train(method, views, optimizer, dataclasses.replace(config, **changes), run, CPU, evaluate=lambda step: {})
    assert is_sharded(method) == shard == (run.folder / "last").is_dir() != (run.folder / "last.pt").exists()
    return seen.gradients | state(method, optimizer)


class Seen(loop.StepHook):
    """Keeps the gradients of the first step."""

    def __init__(self, method: Method):
        self.method, self.gradients = method, {}

    def backward_done(self, progress: float) -> None:
        for name, p in self.method.named_parameters() if progress == 0 else ():
            if p.grad is not None:
                self.gradients[f"gradient of {name}"] = full(p.grad).clone()


def state(method: Method, optimizer) -> dict[str, Tensor]:
    names = {id(p): name for name, p in method.named_parameters()}
    of_optimizer = {f"{names[id(p)]}.{key}": value for p, kept in optimizer.state.items() for key, value in kept.items()}
    return {name: full(value.detach()).clone() for name, value in (method.state_dict() | of_optimizer).items()}


def assert_same(one: dict[str, Tensor], several: dict[str, Tensor], what: str) -> None:
    assert one.keys() == several.keys()
    for name, expected in one.items():
        error = float((several[name] - expected).double().norm() / expected.double().norm().clamp(min=1e-3))
        assert error <= 1e-10, f"{what}: {name} is off by {error:.1e}"


def many(cases: list, folder: str) -> list:
    return [trained(case, f"{folder}/{number}", shard=True) for number, case in enumerate(cases)]


@pytest.mark.parametrize("W", [2, pytest.param(4, marks=pytest.mark.long)])
def test_several_processes_are_one(W, tmp_path):
    several = on(W, many, CASES, str(tmp_path / "several"), timeout=400)
    for number, case in enumerate(CASES):
        one = trained(case, str(tmp_path / f"one-{number}"))
        for rank in range(W):
            assert_same(one, several[rank][number], f"{case[0]}, process {rank} of {W}")


def resumed(folder: str, start: str) -> list:
    """Three steps in pieces and chunks; and those of a run of one process (`start`) from its first step on."""
    return [
        trained(CHUNKS, f"{folder}/chunks", shard=True, chunk=4),
        trained(CASES[1], f"{folder}/pieces", shard=True, accumulate=2),
        trained(CASES[2], start, shard=True, pause_at=2),
    ]


@pytest.mark.parametrize("W", [2, pytest.param(4, marks=pytest.mark.long)])
@pytest.mark.slow
def test_chunks_pieces_and_another_number_of_processes(W, tmp_path):
    """A run is begun by one process, goes on sharded, and is ended by one process, which has a last.pt again."""
    start, folder = str(tmp_path / "run"), str(tmp_path)
    trained(CASES[2], start, pause_at=1)
    chunks, pieces, _ = on(W, resumed, folder, start, timeout=400)[-1]
    assert_same(trained(CHUNKS, f"{folder}/one"), chunks, "chunks")
    assert_same(trained(CASES[1], f"{folder}/two"), pieces, "pieces")
    file = next(Path(start, "last", "2").glob("shard-00001*.safetensors"))
    content = file.read_bytes()
    for broken, why in ((b"", "cannot be read"), (None, "rows of .* are missing|in one of both alone|there and")):
        file.unlink()
        if broken is not None:
            file.write_bytes(broken)
        with pytest.raises(ValueError, match=f"last/2 does not fit: data or code changed .*({why})"):
            trained(CASES[2], start)
    file.write_bytes(content)
    whole, ended = trained(CASES[2], f"{folder}/three"), trained(CASES[2], start)
    assert_same({name: value for name, value in whole.items() if "gradient" not in name}, ended, "resumed")


@pytest.mark.long
def test_a_run_of_two_is_ended_by_four(tmp_path):
    on(2, paused, CASES[2], str(tmp_path / "run"), timeout=400)
    ended = on(4, trained, CASES[2], str(tmp_path / "run"), True, timeout=400)[3]
    whole = trained(CASES[2], str(tmp_path / "one"))
    assert_same({name: value for name, value in whole.items() if "gradient" not in name}, ended, "resumed")


def paused(case, folder: str) -> None:
    trained(case, folder, shard=True, pause_at=1)


# ---- what a process holds, evaluates and writes


def written(method: Method, case: tuple[str, ...], folder: str) -> list[bytes]:
    """encoder.safetensors and method.safetensors, as ssl.pretrain writes them."""
    run, mean = Run(folder, {}), (0.5,) * method.encoder.spec.channels
    run.begin()
    header = artifact.EncoderHeader(method.encoder.spec, mean, mean, method.encoder.dim, {})
    run.write_tensors("encoder.safetensors", *artifact.contents(method.encoder, header, {}))
    run.write_tensors("method.safetensors", *method_file.contents(method, words_of(*case), 7))
    return [Path(folder, name).read_bytes() for name in ("encoder.safetensors", "method.safetensors")] if is_main() else []


def held(folder: str) -> dict:
    case, found = CASES[2], {}
    images = batch("dinov2", 0, torch.float64).views[0]
    method = method_of(case)
    with torch.no_grad():
        found["features"] = method.encoder.eval()(images)
    method.train()
    found["whole bytes"] = written(method, case, f"{folder}/whole")
    numbers = {name: p.numel() for name, p in method.named_parameters()}
    whole = WholeEncoder(method.encoder)
    shard_(method, CPU)
    found["bytes"] = written(method, case, f"{folder}/sharded")
    found["rows"] = {name: p.to_local().numel() / numbers[name] for name, p in method.named_parameters() if len(p) > 1}
    method(batch("dinov2", 0, torch.float64), 0.0).loss.backward()
    found["gradients"] = {n: p.grad.to_local().numel() / numbers[n] for n, p in method.named_parameters() if p.grad is not None}
    measured = whole.of(method.encoder, CPU)
    if is_main():  # by itself
        with torch.no_grad():
            found["alone"] = measured.eval()(images)
    wrap(method)(batch("dinov2", 1, torch.float64), 0.0).loss.backward()
    return found


@pytest.mark.slow
def test_rows_are_held_the_main_process_evaluates_and_the_files_are_those_of_a_whole_method(tmp_path):
    main, other = on(2, held, str(tmp_path))
    for process in (main, other):
        assert set(process["rows"].values()) == {0.5}, "every table has an even number of rows"
        assert max(v for n, v in process["gradients"].items() if n in process["rows"]) == 0.5
    torch.testing.assert_close(main["alone"], main["features"], rtol=1e-12, atol=1e-12)
    assert main["bytes"] == main["whole bytes"]
    assert safetensors.torch.load(main["bytes"][1]).keys() > {"mask_token"}


def steps(names: list[str]) -> list[dict[str, Tensor]]:
    """Two steps of each method by plain SGD, sharded."""
    return [two_steps(name, shard=True) for name in names]


def two_steps(name: str, shard: bool = False) -> dict[str, Tensor]:
    method = method_of((name,))
    if shard:
        shard_(method, CPU)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.05)
    for step in range(2):
        output = wrap(method)(batch(name, step, torch.float64), step / 2)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(output.staged, step / 2)
    return state(method, optimizer)


@pytest.mark.long
def test_every_method_convolutional_encoders_and_batchnorm_among_them():
    several = on(2, steps, NAMES, timeout=400)[1]
    for name, found in zip(NAMES, several, strict=True):
        assert_same(two_steps(name), found, name)
