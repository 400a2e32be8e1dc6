"""Several processes are one: gradients, weights, teacher and queue, for every method.

The averaged gradient over W processes equals that of one process on the joined batch. float64 shows the mathematics
(what is left is rounding), float32 what a user gets. Weights move by plain SGD: LARS and Adam would hide a wrong scale.
"""
import pytest
import torch
from processes import on
from small_methods import NAMES, ON_TOKENS, batch, made
from torch import Tensor

from core.processes import wrap

RATE = 0.05
VARIANTS = {
    "moco_v2": [
        (f"method.bn={bn}", f"method.symmetric={symmetric}")
        for bn in ("shuffle", "sync")
        for symmetric in ("true", "false")
    ],
}
SMALLEST = dict.fromkeys(("moco_v3_vit", *ON_TOKENS), ())  # need a transformer
CASES = [
    (name, *words, *SMALLEST.get(name, ("encoder=test_resnet",))) for name in NAMES for words in VARIANTS.get(name, [()])
]


def steps(case: tuple[str, ...], dtype: torch.dtype, count: int, smooth: bool = False) -> dict[str, Tensor]:
    """Gradients of the first and of the last of some steps, and all that the method then holds."""
    name = case[0]
    method = made(*case, dtype=dtype, smooth=smooth or dtype == torch.float32)
    model = wrap(method)
    trained = [p for p in method.parameters() if p.requires_grad]
    found = {}
    for step in range(count):
        output = model(batch(name, step, dtype), step / count)
        output.loss.backward()
        if step in (0, count - 1):
            found[f"gradient of step {step}"] = torch.cat([p.grad.flatten() for p in trained])
        with torch.no_grad():
            for p in trained:
                p -= RATE * p.grad
                p.grad = None
        method.after_step(output.staged, step / count)
    return found | {f"state: {key}": value.clone() for key, value in method.state_dict().items()}


def both(cases: list, count: int) -> tuple[list[dict[str, Tensor]], ...]:
    """What float64 makes of some steps, and float32 of one."""
    return [steps(case, torch.float64, count) for case in cases], [steps(case, torch.float32, 1) for case in cases]


def assert_one(case, single: dict[str, Tensor], several: list[dict[str, Tensor]], relative: float) -> None:
    """Every tensor, on every process: the norm of the difference over the norm (over 1e-3, where it is all but zero)."""
    for key, expected in single.items():
        for rank, found in enumerate(several):
            if not expected.is_floating_point():
                assert torch.equal(found[key], expected), f"{case}, process {rank}: {key}"
                continue
            error = (found[key] - expected).norm() / expected.norm().clamp(min=1e-3)
            assert error <= relative, f"{case}, process {rank}: {key} is off by {error:.1e}"


@pytest.mark.parametrize(("W", "count", "cases"), [
    (2, 2, CASES[::4]),
    pytest.param(2, 3, CASES, marks=pytest.mark.long),
    pytest.param(4, 1, [case for case in CASES if "method.symmetric=false" not in case], marks=pytest.mark.long),  # all methods
])
def test_several_processes_are_one(W, count, cases):
    """float64, after so many steps: 1e-10 is a million roundings, far below what a missing or doubled term changes.

    float32: gradients to 1e-5, or as near as float32 is to float64 in one process (DINO's T = .04 makes 1e-5 of rounding).
    """
    several = on(W, both, cases, count)
    for i, case in enumerate(cases):
        assert_one(case, steps(case, torch.float64, count), [exact[i] for exact, _ in several], 1e-10)
        first = "gradient of step 0"
        single = {first: steps(case, torch.float32, 1)[first]}
        reference = steps(case, torch.float64, 1, smooth=True)[first]
        rounding = float((single[first] - reference).norm() / reference.norm())
        assert rounding < 1e-4, f"{case}: float32 is {rounding:.1e} off float64"
        assert_one(case, single, [user[i] for _, user in several], max(1e-5, 2 * rounding))


def test_the_check_sees_a_wrong_scale():
    """As when a loss forgets that gradients are averaged."""
    single = steps(("simclr", "encoder=test_resnet"), torch.float32, 1)
    wrong = {key: value * 0.5 if "gradient" in key else value for key, value in single.items()}
    with pytest.raises(AssertionError, match="off by"):
        assert_one("simclr", single, [wrong], 1e-5)
