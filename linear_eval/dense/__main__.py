"""`python -m linear_eval.dense`: see linear_eval/dense/evaluate.py."""
import sys

from linear_eval.dense.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
