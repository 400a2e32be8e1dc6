"""k nearest neighbours on frozen features, exact (faiss)."""
import faiss
import numpy as np
from torch import Tensor
from torch.nn import functional as F

K, TEMPERATURE = 20, 0.07


def neighbours(bank: Tensor, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarities and indices of the k nearest rows of the bank.  N,D and M,D → M,k and M,k."""
    bank, queries = (F.normalize(x.detach().float().cpu(), dim=1).contiguous().numpy() for x in (bank, queries))
    index = faiss.IndexFlatIP(bank.shape[1])
    if getattr(faiss, "get_num_gpus", lambda: 0)():
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(bank)
    return index.search(queries, min(k, len(bank)))


def knn(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, classes: int, k: int = K, temperature: float = TEMPERATURE
) -> np.ndarray:
    """The weighted vote of Wu et al. 2018 (arXiv 1805.01978) as DINO evaluates: weight exp(similarity/T).  → M labels."""
    similarity, index = neighbours(bank, queries, k)
    votes = np.zeros((len(queries), classes))
    labels = bank_labels.cpu().numpy()[index]  # M,k
    weights = np.exp((similarity - similarity[:, :1]) / temperature)  # relative to the nearest: nothing overflows
    np.add.at(votes, (np.arange(len(votes))[:, None], labels), weights)
    return votes.argmax(1)


def knn_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, classes: int, **settings) -> float:
    """Share of the queries whose vote is right, in per cent."""
    return float((knn(bank, bank_labels, queries, classes, **settings) == labels.cpu().numpy()).mean() * 100)
