"""Numbers in pages: a fixed count of decimals, a true minus sign, a dash for a missing number."""

from collections.abc import Callable
from typing import Any

from medistill.records.estimate import Estimate

MISSING = "–"


def number(value: Any, digits: int = 3, signed: bool = False) -> str:
    """`0.812`, `−0.031`, `+0.020`; a dash if the value is not a number."""
    if not isinstance(value, int | float):
        return MISSING
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def interval(value: Estimate, signed: bool = False) -> str:
    """`0.812 [0.790, 0.833]`; without bounds the estimate alone."""
    shown = number(value.estimate, signed=signed)
    if value.lower is None or value.upper is None:
        return shown
    return f"{shown} [{number(value.lower, signed=signed)}, {number(value.upper, signed=signed)}]"


def millions(value: float) -> str:
    """`4.73 M`."""
    return f"{value / 1e6:,.2f} M"


def scientific(value: float) -> str:
    """`1e−04`."""
    return f"{value:.0e}".replace("-", "−")


def whole(value: int) -> str:
    """`12,345`."""
    return f"{value:,}"


def percent(share: float | None, digits: int = 1) -> str:
    """`12.5 %` of a share from 0 to 1."""
    return MISSING if share is None else f"{100 * share:.{digits}f} %"


def p_value(value: float | None) -> str:
    """`0.041`, `< 0.001`."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


FILTERS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (number, millions, scientific, whole, percent, p_value)
}
"""Filters by the names that templates use."""
