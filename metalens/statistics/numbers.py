"""Formatting of numbers."""

import math
from collections.abc import Sequence

from metalens.metrics import METRICS

MAX_DECIMALS = 9


def metric_title(metric: str) -> str:
    """Return a metric's name with its unit and its direction.

    >>> metric_title("accuracy")
    'accuracy in %, higher is better'
    """
    return f"{metric}{unit(metric, ' in %')}, {METRICS[metric].better} is better"


def unit(metric: str, text: str = "%") -> str:
    """Return a unit of percent for a metric that is a fraction, and nothing for others."""
    return text if METRICS[metric].unit == "fraction" else ""


def number(value: float, decimals: int, sign: str = "-") -> str:
    """Return a number with a true minus sign; as a power of ten if the decimals would not show it.

    >>> number(-0.1234, 2), number(0.5, 1, "+"), number(math.inf, 1), number(math.nan, 1)
    ('−0.12', '+0.5', '∞', 'n/a')
    >>> number(2.5e-18, 9), number(0.0, 9)
    ('2.50e−18', '0')
    """
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if decimals == MAX_DECIMALS and value == 0:
        return "0"
    is_tiny = decimals == MAX_DECIMALS and abs(value) < 10.0 ** (2 - MAX_DECIMALS)
    kind = "e" if abs(value) >= 1e6 or is_tiny else "f"
    return f"{value:{sign}.{decimals if kind == 'f' else 2}{kind}}".replace("-", "−")


def interval(low: float, high: float, decimals: int, sign: str = "-") -> str:
    """Return an interval in brackets, `"n/a"` if undefined; see `number`."""
    if math.isnan(low):
        return "n/a"
    return f"[{number(low, decimals, sign)}, {number(high, decimals, sign)}]"


def decimals(centers: Sequence[float], highs: Sequence[float]) -> int:
    """Return the decimals that show two digits of the narrowest interval or four of the smallest center.

    >>> decimals([0.5123], [0.5432]), decimals([48.2], [50.3])
    (3, 1)
    """
    sizes = [abs(center) for center in centers]
    widths = [abs(high - center) for center, high in zip(centers, highs, strict=True)]
    candidates = [
        digits - 1 - math.floor(math.log10(min(usable)))
        for digits, values in ((2, widths), (4, sizes))
        if (usable := [value for value in values if 0 < value < math.inf])
    ]
    return min(max(min(candidates, default=3), 0), MAX_DECIMALS)
