"""Figures of features beside the protocols: retrieval, clusters, few shots, open sets, label-free quality, leakage."""
