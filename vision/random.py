"""Names of core/counter_rng.py until callers follow."""
from core.counter_rng import *  # noqa: F403
from core.counter_rng import MIX, ORDER, SHUFFLE, SPLIT, philox  # noqa: F401
from core.counter_rng import random_bits as words  # noqa: F401
