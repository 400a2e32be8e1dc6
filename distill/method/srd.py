"""SRD: Miles, Mikolajczyk, "Understanding the role of the projector in knowledge distillation", AAAI 2024, arXiv 2303.11098.

On features, after a linear projector of the student's and BatchNorm of both without scale and shift. The authors' code has two
losses: on ImageNet log Σ_b,d |s − t|⁴ ("distance"), for DeiT log Σ_d |c_d − 1|⁴, c the correlation of feature d over the batch
("correlation"). Sums are over the global batch. Change: the sum is at least 1e-12, so that equal features have a finite loss.
"""
import torch
from torch import Tensor, nn

from core.method import Output, at_least_fp32, check_natural, check_positive
from core.processes import total, world_size
from distill.losses import kd
from distill.method import Labelled, Student, Targets

LOSSES = ("distance", "correlation")
LEAST = 1e-12


class SRD(Labelled):
    def __init__(
        self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float, loss: str, kd: float, kd_temperature: float
    ):
        self.needs = ("features", "logits") if kd else ("features",)
        super().__init__(encoder, teacher, classes, ce, weight)
        check_natural(kd=kd)
        check_positive(kd_temperature=kd_temperature)
        if loss not in LOSSES:
            raise ValueError(f"method.loss={loss}: there are {', '.join(LOSSES)}")
        self.loss, self.kd, self.temperature = loss, kd, kd_temperature
        self.projector = nn.Linear(encoder.dim, teacher.dim)
        self.norms = nn.ModuleList([nn.BatchNorm1d(teacher.dim, eps=1e-4, affine=False) for _ in range(2)])

    def combine(self, student: Student, targets: Targets, progress: float) -> Output:
        output = super().combine(student, targets, progress)
        if not self.kd or self.head is None:
            return output
        logits = at_least_fp32(self.head(student.features))
        value = self.kd * kd(logits, targets.logits[:, 0], self.temperature)
        return Output(output.loss + value, output.scalars | {"kd": value.detach()}, output.staged)

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        both = self.projector(student.features), teacher.features
        ours, theirs = (norm(at_least_fp32(x)) for norm, x in zip(self.norms, both, strict=True))
        return Output(power(ours, theirs, self.loss))


def power(student: Tensor, teacher: Tensor, loss: str) -> Tensor:
    """B,D and B,D with mean 0 and variance 1 over the global batch → scalar"""
    if loss == "distance":
        found = total((student - teacher).pow(4).sum())
    else:
        correlation = total((student * teacher).sum(0)) / (len(student) * world_size())
        found = (correlation - 1).pow(4).sum()
    return torch.log(found.clamp(min=LEAST))
