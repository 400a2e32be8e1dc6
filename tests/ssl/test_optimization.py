"""Which parameters decay, what is frozen, how rates fall by layer: by name, and against the optimizers that do it."""
import copy

import pytest
import timm
import torch
from small_methods import batch, made, words_of
from test_adapt import adapted, settings_of

from core import loop, optim, training
from core.processes import World
from core.run import Run
from ssl import adapt
from ssl.adaptation import Adaptation
from ssl.pretrain import check
from vision.layers import rates

CPU = torch.device("cpu")
TABLES = {"cls_token", "reg_token", "pos_embed"}


def decaying(module, **more) -> set[str]:
    names = {id(p): name for name, p in module.named_parameters()}
    groups = optim.parameter_groups(module, 0.1, **more)
    assert sorted(names[id(p)] for g in groups for p in g["params"]) == sorted(n for n, p in module.named_parameters()
                                                                              if p.requires_grad)
    return {names[id(p)] for g in groups for p in g["params"] if g["weight_decay"]}


def test_what_decays_in_a_vision_transformer():
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, init_values=0.1, reg_tokens=4)
    matrices = {f"blocks.0.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    matrices |= {"patch_embed.proj.weight"}
    spared = {"norm.weight", "norm.bias", "patch_embed.proj.bias", "blocks.0.ls1.gamma", "blocks.0.ls2.gamma"}
    spared |= {f"blocks.0.{name}" for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.qkv.bias",
                                               "attn.proj.bias", "mlp.fc1.bias", "mlp.fc2.bias")}
    assert decaying(vit) == matrices | TABLES
    assert decaying(vit, no_decay=("pos_embed", "cls_token")) == matrices | {"reg_token"}
    assert decaying(vit, no_decay=tuple(TABLES)) == matrices
    assert matrices | TABLES | spared == {name for name, _ in vit.named_parameters()}
    assert vit.no_weight_decay() <= TABLES | {"dist_token"}, "timm's list, which no_decay can repeat"


@pytest.mark.parametrize(
    ("name", "tokens"), [("ibot", {"mask_token": False}), ("simmim", {"mask_token": False}), ("mae", {"decoder.mask": True})]
)
def test_whether_a_mask_token_decays(name, tokens):
    """One of one dimension does not, one that is a table does, as the authors' code decides it too, by ndim."""
    method = made(name)
    assert {token: token in decaying(method) for token in tokens} == tokens
    last = tuple({token.rpartition(".")[2] for token in tokens})
    assert not decaying(method, no_decay=last) & tokens.keys()


def test_a_name_that_nothing_has_is_refused():
    line = r"^optim\.no_decay=pos_embd: no parameter is called pos_embd; did you mean pos_embed\?"
    with pytest.raises(ValueError, match=line):
        optim.parameter_groups(made("ibot"), 0.1, no_decay=("pos_embd",))


# ---- in the loop


def trained(name: str, folder, steps: int, *more: str, until: int | None = None):
    """(method at the start, after `until` of `steps` steps)"""
    settings = words_of(name, "optim.warmup=0", *more)
    method = made(name, *more)
    method.prepare(1000, settings.batch_size)
    start = copy.deepcopy(method)
    optimizer, config = training.build(
        settings, method, World(0, 1, 0, 1, CPU), 4, None, steps=steps, evals=frozenset(), pause_at=until
    )
    run = Run(folder, {})
    run.begin()
    loop.train(method, (batch(name, step) for step in range(steps)), optimizer, config, run, CPU, lambda step: {})
    return start, method


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
@pytest.mark.parametrize(("name", "layers"), [("dino", 1), ("ibot", 1), ("dinov2", 1), ("dinov3", 2)])
def test_a_frozen_last_layer_does_not_move(name, layers, optimizer, tmp_path):
    words = ["method.freeze_last=0.5", f"optim.name={optimizer}", "optim.lr=0.1", "optim.weight_decay=0.5", "clip=1"]
    start, now = trained(name, tmp_path / "a", 4, *words, until=2)
    last = [key for key, _ in start.projector.named_parameters() if key.endswith("prototypes")]
    assert len(last) == layers
    for key in last:
        assert torch.equal(start.projector.get_parameter(key), now.projector.get_parameter(key))
        assert torch.equal(start.teacher[1].get_parameter(key), now.teacher[1].get_parameter(key))
    mlp = next(key for key, _ in start.projector.named_parameters() if key.endswith("mlp.0.weight"))
    assert not torch.equal(start.projector.get_parameter(mlp), now.projector.get_parameter(mlp))
    _, later = trained(name, tmp_path / "b", 4, *words)
    assert not any(torch.equal(start.projector.get_parameter(key), later.projector.get_parameter(key)) for key in last)


def test_frozen_prototypes_of_swav_gather_no_momentum(tmp_path):
    start, now = trained("swav", tmp_path / "a", 4, "method.freeze_prototypes=1", "optim.name=adamw")
    torch.testing.assert_close(now.prototypes.weight, start.prototypes.weight, rtol=0, atol=1e-6)  # normalized at each step


def test_clip_by_module_is_torchs_on_each(tmp_path):
    words = ("optim.name=sgd", "optim.momentum=0", "optim.weight_decay=0", "optim.scaling=none", "optim.lr=1", "clip=0.01")
    start, now = trained("simclr", tmp_path / "a", 1, *words, "clip_by=module")
    peer = copy.deepcopy(start)
    peer.train()
    peer(batch("simclr", 0), 0.0).loss.backward()
    for part in (peer.encoder, peer.projector):
        norm = torch.nn.utils.clip_grad_norm_(part.parameters(), 0.01)
        assert norm > 0.01, "there is something to clip"
    for name, p in ((name, p) for name, p in peer.named_parameters() if p.requires_grad):
        torch.testing.assert_close(now.get_parameter(name).detach(), (p - p.grad).detach(), rtol=1e-5, atol=1e-7)
    _, whole = trained("simclr", tmp_path / "b", 1, *words)
    assert not torch.equal(whole.projector[0].weight, now.projector[0].weight)


@pytest.mark.parametrize(("scaling", "share"), [("linear", 0.125), ("sqrt", 0.125**0.5), ("none", 1.0)])
def test_the_rate_is_for_the_reference_batch(scaling, share):
    words = ["--batch_size=128", f"--optim.scaling={scaling}", "--optim.lr=0.3"]
    assert training.learning_rate(settings_of(*words, "--optim.reference_batch=1024")) == pytest.approx(0.3 * share)
    usual = training.learning_rate(settings_of(*words, "--optim.reference_batch=256"))
    assert training.learning_rate(settings_of(*words)) == usual


def test_layers_decay_without_adapt_as_with_it():
    settings = settings_of("--method=ibot", "--encoder=test_vit", "--optim.layer_decay=0.5", "--optim.stem_lr=0.2")
    check(settings)
    method = made("ibot")
    Adaptation(settings, method)
    optimizer = optim.build(method, settings.optim, 1.0)
    optim.schedule(optimizer, 1.0)
    of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    shares = rates(method.encoder, 0.5, 0.2)
    assert {name: of[id(p)] for name, p in method.encoder.named_parameters()} == pytest.approx(shares)
    assert of[id(method.projector.prototypes)] == 1
    assert adapt.with_defaults(settings) is settings
    assert (adapted("--optim.layer_decay=0.7").adapt.layer_decay, adapted().adapt.layer_decay) == (0.7, 0.8)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--clip_by=module"], r"^clip_by=module: must be left out without clip, such as clip=3"),
        (["--clip_by=each", "--clip=3"], r"^clip_by=each: must be all or module"),
        (["--optim.layer_decay=1.5"], r"^optim\.layer_decay=1\.5: must be more than 0, at most 1"),
        (["--optim.reference_batch=0"], r"^optim\.reference_batch=0: must be more than 0"),
    ],
)
def test_mistakes(words, line):
    with pytest.raises(ValueError, match=line):
        check(settings_of(*words))


def test_other_tools_refuse_what_is_of_pretraining():
    from linear_eval import finetune

    with pytest.raises(ValueError, match=r"^optim\.layer_decay=0\.5: must be left out: it is of ssl\.pretrain"):
        training.check(settings_of("--encoder=resnet18", "--optim.layer_decay=0.5", tool=finetune.TOOL))
