"""Two and four processes: the mean of their losses, and its gradient, are those of the joined batch in one process."""
import pytest
import torch
from loss_cases import CASES, PROGRESS, N, P, dino, dino_views, value_and_gradients
from processes import on
from torch import Tensor

from core.method import Batch
from core.method import joined as join
from core.processes import local_rows, mean, total, world_size


def forgets_the_number_of_processes(z: Tensor) -> Tensor:
    """A variance over the global batch, divided by this process's rows: W times too large."""
    return total(z.square().sum()) / len(z)


def forgets_the_other_processes_gradient(z: Tensor) -> Tensor:
    """The right value, by a sum that passes each process only its own gradient: 1/W of it."""
    here = z.mean(0) / world_size()
    everywhere = here + (total(here) - here).detach()
    return everywhere.square().sum()


WRONG = {"number": forgets_the_number_of_processes, "gradient": forgets_the_other_processes_gradient}


def wrong_inputs() -> Tensor:
    return torch.randn(N, P, generator=torch.Generator().manual_seed(5)).double()


def shares() -> dict[str, list[Tensor]]:
    """In each process: every loss of its rows, averaged over processes; and the gradient of that average to its rows."""
    found = {}
    for name, case in CASES.items():
        inputs, rows = [local_rows(x) for x in case.inputs()], tuple(local_rows(x) for x in case.rows)
        found[name] = value_and_gradients(case.ours, inputs, rows)
    for name, loss in WRONG.items():
        found[name] = value_and_gradients(loss, [local_rows(wrong_inputs())])
    for values in found.values():
        values[0] = mean(values[0])
        values[1:] = [g / world_size() for g in values[1:]]  # each loss is 1/W of the mean
    found["centre"] = [centre()]
    return found


def centre() -> Tensor:
    """DINO's, after one step in two pieces."""
    torch.manual_seed(4)
    method = dino(0.0)
    staged = []
    for _ in range(2):
        whole = dino_views()
        staged.append(method(Batch([local_rows(view) for view in whole.views], local_rows(whole.indices)), PROGRESS).staged)
    method.after_step(join(staged), PROGRESS)
    return method.centre


def joined(processes: list[list[Tensor]]) -> list[Tensor]:
    return [processes[0][0], *(torch.cat(gradients) for gradients in zip(*(p[1:] for p in processes), strict=True))]


@pytest.mark.parametrize("W", [2, 4])
@pytest.mark.slow
def test_split_rows_give_the_joined_batchs_loss_and_gradients(W):
    processes = on(W, shares)
    for name, case in CASES.items():
        one = value_and_gradients(case.ours, case.inputs(), case.rows)
        many = joined([p[name] for p in processes])
        for i, (expected, found) in enumerate(zip(one, many, strict=True)):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10, msg=lambda m: f"{name}, {i}: {m}")  # noqa: B023
    assert all(torch.equal(p["centre"][0], processes[0]["centre"][0]) for p in processes)
    torch.testing.assert_close(processes[0]["centre"][0], centre(), rtol=1e-10, atol=1e-10)

    for name, value_is, gradient_is in (("number", W, W), ("gradient", 1, 1 / W)):  # the comparison above would tell
        value, gradient = value_and_gradients(WRONG[name], [wrong_inputs()])
        wrong_value, wrong_gradient = joined([p[name] for p in processes])
        torch.testing.assert_close(wrong_value, value_is * value, rtol=1e-10, atol=0)
        torch.testing.assert_close(wrong_gradient, gradient_is * gradient, rtol=1e-10, atol=1e-12)
