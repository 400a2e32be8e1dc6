"""The tabular benchmark for tests of what looks at encoders: reports, which describe them, and devices, which time them."""
from functools import partial

from nas import space
from nas.tabular import Table, TableEvaluator


class TableWithEncoders(TableEvaluator):
    """The table's figures, of candidates that have encoders."""

    def __init__(self, table: Table, seed: int):
        super().__init__(table, seed)
        self.sample = partial(space.sample, space=space.tabular, channels=1, size=14, tune=[], flat={})
