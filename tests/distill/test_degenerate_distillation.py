"""Every distillation method and loss is finite, value and gradient, at inputs where its formula is not; or refuses in one line.

Methods are found by listing the folder, functions by listing the module, so a new one is tested too.
"""
import inspect

import pytest
import torch
from degenerate import DTYPES, INPUTS, TINY, changed_record, refused, wrong
from test_distillation_methods import NAMES, B, batch, made, teacher_made
from torch import Tensor

from core import cli
from core.identity import identity
from core.method import Batch
from core.training import build_method
from distill import losses
from distill.method import WithMaps
from distill.train import TOOL
from distill.with_tokens import WithTokens
from vision import encoders


def cold(name: str) -> list[str]:
    """Words that set every temperature of a method to a tiny one."""
    lines = (TOOL.primary.parent / "method" / f"{name}.yaml").read_text().splitlines()
    keys = [line.split(":")[0].strip() for line in lines if line.startswith("  ")]
    return [f"method.{key}={TINY}" for key in keys if "temperature" in key]


def objective(method, change, batch: Batch, images: int = B, views: int | None = None):
    """Two steps' outputs, of what `change` makes of the features (or the images, where feature maps are compared)."""
    for _ in range(2):
        if isinstance(method, (WithMaps, WithTokens)):
            x = change(torch.randn(B, 1, 16, 16, generator=torch.Generator().manual_seed(2))).requires_grad_()
            made_of_it = Batch([x[:images]], batch.indices[: len(x)][:images], batch.labels[: len(x)][:images])
            yield method(made_of_it, 0.5), x
            continue
        features = torch.randn(B, views or method.traits.views, method.encoder.dim, generator=torch.Generator().manual_seed(2))
        x = change(features.relu()).requires_grad_()
        with torch.no_grad():
            targets = method.targets(batch)
        targets = changed_record(changed_record(targets, change, B), lambda t: t[:images], len(x))
        yield method.objective(x[:images], targets, 0.5), x


def not_finite(method, change, some: Batch, images: int = B, views: int | None = None, dtype: torch.dtype | None = None):
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        for step, (output, x) in enumerate(objective(method, change, some, images, views)):
            method.zero_grad()
            loss = output.loss
            loss.backward()
            method.after_step(output.staged, 0.5)
            gradients = [(f"gradient of {n}", p.grad) for n, p in method.named_parameters()]
            state = [(f"state {n}", value) for n, value in method.state_dict().items() if n != "log_constants" or step]
            if found := wrong([("loss", loss), ("gradient of the input", x.grad), *gradients, *state]):
                return [f"step {step}: {what}" for what in found]
    return []


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_finite_at_degenerate_inputs(name):
    method, problems = made(name), {}
    state = {key: value.clone() for key, value in method.state_dict().items()}
    some = batch(method)
    for what, change in INPUTS.items():
        method.load_state_dict(state)
        problems[what] = not_finite(method, change, some, dtype=DTYPES.get(what))
    for labels in (torch.zeros(B, dtype=torch.long), torch.arange(B) % 4):
        method.load_state_dict(state)
        problems[f"labels {labels.tolist()}"] = not_finite(method, lambda x: x, Batch(some.views, some.indices, labels))
    method = made(name, *cold(name)) if cold(name) else None
    for what in ("ordinary", "huge", "all rows equal") if method else ():
        method.load_state_dict(state)
        problems[f"temperature {TINY}, {what}"] = not_finite(method, INPUTS[what], some)
    assert not {what: found for what, found in problems.items() if found}


@pytest.mark.parametrize("name", NAMES)
def test_one_image_or_one_view_is_finite_or_refused_in_one_line(name):
    for images, views in ((1, None), (B, 1)):
        method = made(name)
        try:
            assert not not_finite(method, lambda x: x, batch(method), images, views)
        except ValueError as error:
            assert refused(error)  # noqa: PT017 (either is right)


@pytest.mark.parametrize(("name", "classes", "match"), [("kd_std", 1, "one class"), ("dkd", 2, "use kd")])
def test_too_few_classes_are_refused(name, classes, match):

    words = cli.compose(TOOL, ["teacher=t", f"method={name}", "data=synthetic"])
    student, teacher = encoders.create("test_resnet", 1, 16), teacher_made(classes=("a",) * classes)
    with pytest.raises(ValueError, match=match):
        build_method(words, student, teacher=teacher, classes=classes)


ROWS, WIDTH, K = 6, 5, 8
SHAPES = {
    **dict.fromkeys(("student", "teacher", "logits", "anchors", "teachers_anchors", "positives"), (ROWS, WIDTH)),
    "negatives": (K, WIDTH),
}
MAPS = {"attention": (ROWS, 3, 2, 2), "same_size": (ROWS, 3, 2, 2)}  # functions of feature maps
OTHERS = {
    "labels": torch.arange(ROWS) % WIDTH, "allowed": torch.arange(ROWS)[:, None] != torch.arange(K) % ROWS,
    "alpha": 1.0, "beta": 2.0, "gamma": 2.0, "log_constant": torch.tensor(0.3), "unbiased": True,
}
FUNCTIONS = {
    name: f for name, f in vars(losses).items()
    if inspect.isfunction(f) and f.__module__ == losses.__name__ and not name.startswith("_")
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_loss_is_finite_at_degenerate_inputs(name):
    """A loss with a new argument needs a line in SHAPES or OTHERS; feature maps, one in MAPS."""
    problems = {}
    for what, change in INPUTS.items():
        for temperature in (TINY, 1.0):
            arguments, rows = {}, len(change(torch.zeros(ROWS, 1)))
            for i, parameter in enumerate(inspect.signature(FUNCTIONS[name]).parameters):
                if parameter in SHAPES:
                    shape = MAPS.get(name, SHAPES[parameter])
                    x = torch.randn(*shape, generator=torch.Generator().manual_seed(i))
                    arguments[parameter] = change(x).requires_grad_()
                elif "temperature" in parameter:
                    arguments[parameter] = temperature
                else:
                    value = OTHERS[parameter]
                    arguments[parameter] = value[:rows] if isinstance(value, Tensor) and value.ndim else value
            if "allowed" in arguments:
                arguments["allowed"] = arguments["allowed"][:, : len(arguments["negatives"])]
            value = FUNCTIONS[name](**arguments)
            for part in value if isinstance(value, tuple) else (value,):
                part.float().sum().backward(retain_graph=True)
                problems[what, temperature] = wrong(
                    [("value", part), *((f"gradient of {key}", arguments[key].grad) for key in SHAPES if key in arguments)]
                )
    assert not {what: found for what, found in problems.items() if found}


def test_standardised_is_the_authors_also_at_equal_logits():
    """Sun et al.'s normalize: torch's std divides by K − 1, and its gradient at 0 is 0. Value and gradient."""
    x = torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[1] = 2.5
    direction = torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for f in (losses.standardised, lambda z: (z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7)):
        z = x.clone().requires_grad_()
        (f(z) * direction).sum().backward()
        assert z.grad.isfinite().all()
        results += [f(z).detach(), z.grad]
    for ours, theirs in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_biased_form_is_kept_for_runs_from_before():
    x = torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    centred = x - x.mean(1, keepdim=True)
    assert torch.equal(losses.standardised(x, unbiased=False), centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-7))
    ratio = losses.standardised(x, unbiased=False) / losses.standardised(x)
    torch.testing.assert_close(ratio, torch.full_like(ratio, (10 / 9) ** 0.5), rtol=1e-6, atol=0)  # ε = 1e-7
    assert made("kd_std").unbiased
    assert not made("kd_std", "method.unbiased=false").unbiased
    before = {"method": {"standardise": True}}
    assert identity({"method": {"standardise": True, "unbiased": False}}) == identity(before)
    assert identity({"method": {"standardise": True, "unbiased": True}}) != identity(before)


def authors_distances(x: Tensor) -> Tensor:
    """Park et al.'s code: no squared distance of two images below 1e-12; the mean is over all that are more than 0."""
    d = torch.zeros(len(x), len(x), dtype=x.dtype)
    for i, a in enumerate(x):
        for j, b in enumerate(x):
            if i != j:
                d[i, j] = (a - b).square().sum().clamp(min=1e-12).sqrt()
    return d / d[d > 0].mean()


@pytest.mark.parametrize("equal", [1, 2, 6], ids=["none equal", "two equal", "all equal"])
def test_relational_distance_is_the_authors_with_equal_features(equal):
    teacher = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:equal] = x[:1].clone()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    value = losses.relational_distance(ours, teacher)
    expected = torch.nn.functional.smooth_l1_loss(authors_distances(theirs), authors_distances(teacher))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_relational_angles_of_equal_features_have_a_bounded_gradient():
    """Directions between equal images are zero; normalising them must not multiply a gradient by 1e12."""
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    x[1] = x[0]
    x.requires_grad_()
    losses.relational_angle(x, torch.randn(6, 3, generator=torch.Generator().manual_seed(1))).backward()
    assert x.grad.abs().max() < 1  # a mean over triplets of derivatives of angles between images about 1 apart


def test_probabilistic_transfer_of_opposite_features_is_finite_in_any_width():
    """A float32 cosine can be less than −1; then its share was below 0 and the logarithm NaN."""
    for seed in range(20):
        row = torch.randn(1, 2048, generator=torch.Generator().manual_seed(seed)) * 50
        x = torch.cat([row, -row, row, -row]).requires_grad_()
        value = losses.probabilistic_transfer(x, torch.randn(4, 7, generator=torch.Generator().manual_seed(seed)))
        value.backward()
        assert value.isfinite()
        assert x.grad.isfinite().all()
