"""Every pretraining method and loss is finite, value and gradient, at inputs where its formula is not; or refuses in one line.

Methods are found by listing the folder, functions by listing the module, so a new one is tested too.
"""
import inspect
from dataclasses import replace

import pytest
import torch
from degenerate import DTYPES, INPUTS, TINY, changed, changed_record, refused, wrong
from loss_cases import CASES
from small_methods import FOLDER, NAMES, B, batch, made
from torch import Tensor

from ssl import losses
from ssl.method import pairs
from ssl.method.all4one import feature_loss
from ssl.method.dcl import dcl_loss
from ssl.method.dino import dino_loss
from ssl.method.supcon import supcon_loss
from ssl.method.vicreg import vicreg_terms


def cold(name: str) -> list[str]:
    """Words that set every temperature of a method to a tiny one."""
    lines = [line.split(":", 1) for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line.startswith("  ")]
    found = {key.strip(): value for key, value in lines if "temperature" in key}
    return [f"method.{key}={[TINY, TINY] if '[' in value else TINY}".replace(" ", "") for key, value in found.items()]


def not_finite(method, features: Tensor, targets, dtype: torch.dtype | None = None) -> list[str]:
    """Two steps, the second after what the first left in memories: what is not finite."""
    found = []
    for step in range(2):
        features = each(lambda f: f.detach().requires_grad_(), features)
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            output = method.objective(features, targets, 0.5)
            loss, scalars = output.loss, output.scalars
        method.zero_grad()
        loss.backward()
        numbers = [(key, value) for key, value in scalars.items() if isinstance(value, Tensor)]
        gradients = [(f"gradient of {n}", p.grad) for n, p in method.named_parameters()]
        method.after_step(output.staged, 0.5)
        state = [(f"state {n}", value) for n, value in method.state_dict().items()]
        of_features = [("gradient of features", f.grad) for f in entries(features)]
        found += wrong([("loss", loss), *of_features, *numbers, *gradients, *state])
        if found:
            return [f"step {step}: {what}" for what in found]
    return []


def features_of(method, name: str, images: int = B, views: int | None = None) -> Tensor | tuple[Tensor, ...]:
    """Random features of the shapes that the method's own have.  views: other than it takes, where it compares views"""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        own = entries(method.embed(batch(name)))
    shapes = [[images, views, *f.shape[2:]] if views and method.traits.views > 1 else [images, *f.shape[1:]] for f in own]
    found = tuple(torch.randn(*shape, generator=generator).relu() for shape in shapes)
    return found if len(found) > 1 else found[0]


def entries(features: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return features if isinstance(features, tuple) else (features,)


def each(change, features):
    """A change of every entry."""
    return tuple(map(change, features)) if isinstance(features, tuple) else change(features)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_finite_at_degenerate_inputs(name):
    method, problems = made(name), {}
    state = {key: value.clone() for key, value in method.state_dict().items()}
    targets = method.targets(batch(name))
    for what, change in INPUTS.items():
        method.load_state_dict(state)
        features = each(change, features_of(method, name))
        problems[what] = not_finite(method, features, changed_record(targets, change, B), DTYPES.get(what))
    for label in (torch.zeros(B, dtype=torch.long), torch.arange(B)) if method.traits.needs_labels else ():
        problems[f"labels {label.tolist()}"] = not_finite(method, features_of(method, name), replace(targets, labels=label))
    if words := cold(name):
        method = made(name, *words)
        for what in ("ordinary", "huge", "all rows equal"):
            method.load_state_dict(state)
            features, told = each(INPUTS[what], features_of(method, name)), changed_record(targets, INPUTS[what], B)
            problems[f"temperature {TINY}, {what}"] = not_finite(method, features, told)
    assert not {what: found for what, found in problems.items() if found}


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_finite_on_images_that_are_all_black(name):
    method, data = made(name), batch(name)
    black = replace(data, views=[torch.zeros_like(view) for view in data.views], labels=torch.zeros(B, dtype=torch.long))
    with torch.no_grad():
        features = method.embed(black)
    assert not not_finite(method, features, method.targets(black))


@pytest.mark.parametrize("name", NAMES)
def test_one_image_or_one_view_is_finite_or_refused_in_one_line(name):
    for images, views in ((1, None), (B, 1)):
        method = made(name)
        targets = changed_record(method.targets(batch(name)), lambda x, images=images: x[:images], B)
        try:
            assert not not_finite(method, features_of(method, name, images, views), targets)
        except ValueError as error:
            assert refused(error)  # noqa: PT017 (either is right)


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_finite_at_degenerate_inputs(name):
    case, problems = CASES[name], {}
    for what, change in INPUTS.items():
        if (what in DTYPES and not case.half) or (what == "huge" and case.scores):
            continue
        inputs = [x.requires_grad_() for x in changed(case.inputs(torch.float32), change, 8)]
        value = case.ours(*inputs, *changed(case.rows, change, 8))
        gradients = torch.autograd.grad(value, inputs, allow_unused=True)
        problems[what] = wrong([("loss", value), *((f"gradient {i}", g) for i, g in enumerate(gradients))])
    assert not {what: found for what, found in problems.items() if found}


ROWS, WIDTH = 6, 4
ARGUMENTS = dict.fromkeys(("queries", "keys", "queue", "first", "second"), (ROWS, WIDTH))
NUMBERS = {"temperature": TINY, "positives": torch.arange(ROWS), "own": None, "skipped": None, "count": 2}
HELPERS = ("global_rows", "row_tiles")  # no losses
FUNCTIONS = {
    name: f for name, f in vars(losses).items()
    if inspect.isfunction(f) and f.__module__ == losses.__name__ and not name.startswith("_") and name not in HELPERS
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("what", [w for w in INPUTS if w not in (*DTYPES, "two images", "huge")])
def test_a_function_of_the_losses_is_finite_at_degenerate_inputs_and_a_tiny_temperature(name, what):
    """Rows of unit length or zero, as these functions take them. A new argument needs a line in ARGUMENTS or NUMBERS."""
    arguments = {}
    for i, parameter in enumerate(inspect.signature(FUNCTIONS[name]).parameters):
        if parameter in ARGUMENTS:
            x = torch.randn(*ARGUMENTS[parameter], generator=torch.Generator().manual_seed(i))
            arguments[parameter] = torch.nn.functional.normalize(INPUTS[what](x), dim=1).requires_grad_()
        else:
            arguments[parameter] = NUMBERS[parameter]
    value = FUNCTIONS[name](**arguments)
    assert value.isfinite().all()
    if value.requires_grad:
        value.sum().backward()
        assert not wrong((key, x.grad) for key, x in arguments.items() if key in ARGUMENTS)


def test_what_is_not_defined_is_refused_with_the_settings_name():
    one = torch.randn(1, 2, WIDTH)
    for refusing, match in (
        (lambda: vicreg_terms(one[:, 0], one[:, 1]), r"batch_size=1: method=vicreg needs 2 images"),
        (lambda: dcl_loss(one[:, 0], one[:, 1], 0.1), r"batch_size=1: method=dcl needs 2 images"),
        (lambda: supcon_loss(one[:, :1], torch.zeros(1, dtype=torch.long), 0.1), r"batch_size=1: method=supcon needs 2 images"),
        (lambda: dino_loss(one[:, :1], one[:, :1], torch.zeros(WIDTH), 0.1, 0.04), r"augment\.views=1: must be 2 or more"),
        (lambda: pairs(1), r"augment\.views=1: must be 2 or more"),
    ):
        with pytest.raises(ValueError, match=match):
            refusing()


def test_supcon_of_a_singleton_class_adds_nothing_as_in_the_authors_code():
    """SupContrast, losses.py: a row without positives counts in the mean, with 0."""
    z = torch.randn(4, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = torch.nn.functional.normalize(z, dim=2)
    labels, T, expected = torch.tensor([0, 1, 1, 2]), 0.3, 0.0
    for i, p in ((1, 2), (2, 1)):
        others = torch.stack([(z[i, 0] @ z[a, 0] / T).exp() for a in range(4) if a != i]).sum()
        expected = expected - ((z[i, 0] @ z[p, 0] / T).exp() / others).log() / 4
    torch.testing.assert_close(supcon_loss(z, labels, T), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("sigma", [0.5, 0.01, 1e-3])
def test_dclws_weights_are_a_softmax_at_any_sigma(sigma):
    """lightly's form, 2 − N softmax(similarity / σ); the similarities of these views are far below 1."""
    first, second = (torch.randn(8, 5, generator=torch.Generator().manual_seed(i)) for i in range(2))
    similarity = torch.nn.functional.cosine_similarity(first, second)
    expected = 2 - 8 * (similarity / sigma).softmax(0)
    difference = dcl_loss(first, second, 1.0, sigma) - dcl_loss(first, second, 1.0)
    torch.testing.assert_close(difference, ((1 - expected) * similarity).mean(), rtol=1e-5, atol=1e-5)  # float32's rounding


def test_all4one_has_no_gradient_where_its_correlation_is_the_identity():
    """√ of the mean square has none of its own there; here 0, its least."""
    eye = torch.eye(4).expand(2, 4, 4).transpose(0, 1).clone().requires_grad_()  # columns of unit length, B = P
    value = feature_loss(eye, eye.detach())
    value.backward()
    assert value == 0
    assert not eye.grad.any()
