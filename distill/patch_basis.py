"""What is known of a teacher's outputs before training: means, principal components of patches, and the scale of targets."""
import hashlib

import torch
from torch import Tensor, nn

from core.method import at_least_fp32
from core.processes import total
from distill.rotation import equal_variances


class Basis(nn.Module):
    """Patches B,N,D of a teacher ↔ k principal components ↔ PHI-S targets (distill/rotation.py), and the mean of its features.

    Buffers, so that a run resumes with the ones that it began with. Before `fit` components are the first k numbers.
    """

    def __init__(self, dim: int, width: int, components: int):
        """dim: of features; width: D, of patches; components: k, or more than there are."""
        super().__init__()
        k = min(components, width)
        self.register_buffer("features_mean", torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.eye(width, k))  # D,k: columns of length 1
        self.register_buffer("rotation", torch.eye(k))  # k,k
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("explained", torch.ones(()))  # share of the patches' variance that the k components have

    @property
    def kept(self) -> int:
        return self.components.shape[1]

    def project(self, patches: Tensor) -> Tensor:
        """B,N,D → B,N,k, the principal components that are kept of a patch"""
        return (at_least_fp32(patches) - self.mean) @ self.components

    def restore(self, kept: Tensor) -> Tensor:
        """B,N,k → B,N,D, the patch without what the other components had"""
        return at_least_fp32(kept) @ self.components.T + self.mean

    def standardize(self, kept: Tensor) -> Tensor:
        """B,N,k → B,N,k, of equal variance, 1 on average over what `fit` saw"""
        return at_least_fp32(kept) @ self.rotation.T / self.scale

    def unstandardize(self, targets: Tensor) -> Tensor:
        """The inverse of `standardize`."""
        return at_least_fp32(targets) @ self.rotation * self.scale

    @torch.no_grad()
    def fit(self, moments: "Moments") -> None:
        """From the moments of all processes.  Collective."""
        features_mean, mean, covariance = moments.joined()
        values, vectors = torch.linalg.eigh(covariance.cpu())
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        vectors, kept = vectors * torch.where(signs == 0, 1.0, signs), values[: self.kept]
        scale = kept.mean().sqrt()
        found = {
            "features_mean": features_mean, "mean": mean, "components": vectors[:, : self.kept],
            "rotation": equal_variances(kept), "scale": scale if scale > 0 else torch.ones(()),
            "explained": kept.sum() / values.sum() if values.sum() > 0 else torch.ones(()),
        }  # fmt: skip
        for name, value in found.items():
            getattr(self, name).copy_(value)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for value in self.state_dict().values():
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class Moments:
    """Sums of a teacher's outputs on this process, from which `joined` makes means and a covariance."""

    def __init__(self, dim: int, width: int, device: torch.device):
        exact = dict(dtype=torch.float64, device=device)
        self.images, self.features = torch.zeros((), **exact), torch.zeros(dim, **exact)
        self.patches, self.first = torch.zeros((), **exact), torch.zeros(width, **exact)
        self.second = torch.zeros(width, width, **exact)

    def add(self, features: Tensor, patches: Tensor) -> None:
        """B,D and B,N,E"""
        rows = patches.double().flatten(0, 1)
        self.images += len(features)
        self.features += features.double().sum(0)
        self.patches += len(rows)
        self.first += rows.sum(0)
        self.second += rows.T @ rows

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        """Over processes: mean of features D, mean of patches E, their covariance E,E.  Collective."""
        images, features, patches, first, second = map(
            total, (self.images, self.features, self.patches, self.first, self.second)
        )
        mean = first / patches
        return features / images, mean, second / patches - mean.outer(mean)
