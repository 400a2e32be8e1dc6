"""Side-by-side benchmarks: a peer and ours in turn, in one run, on the same machine. Never a test."""
