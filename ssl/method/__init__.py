"""One file, one paper; its yaml beside it."""


def check_constants(temperature: float, momentum: tuple[float, float] = (0.0, 1.0)) -> None:
    """Refuse constants that no paper means.  Raises ValueError naming the setting."""
    if not temperature > 0:
        raise ValueError(f"method.temperature={temperature}: must be more than 0")
    if len(momentum) != 2 or not all(0 <= m <= 1 for m in momentum):
        raise ValueError(f"method.momentum={list(momentum)}: must be [start,end], both from 0 to 1")
