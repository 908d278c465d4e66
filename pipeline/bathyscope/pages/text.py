"""Values become text that is safe in HTML: escaping, numbers, shares, durations, sizes.

`static/format.js` follows the same rules for numbers, so that a figure reads alike in both.
"""

from __future__ import annotations

import html
import math
import re

NOT_MEASURED = "not measured"

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def escape(text: object) -> str:
    """Any text, safe between tags and inside quoted attributes.

    Control characters, which HTML forbids, and lone surrogates, which UTF-8 cannot hold, are shown
    by their number: ‹00›, ‹D800›.
    """
    return html.escape(_FORBIDDEN.sub(_by_number, str(text)), quote=True)


def plain(text: object) -> str:
    """Any text as one line that is safe in a terminal: no control characters, no line ends."""
    return " ".join(_FORBIDDEN.sub(_by_number, str(text)).split())


def _by_number(match: re.Match[str]) -> str:
    return f"‹{ord(match.group()):02X}›"


def is_measured(value: float | int | None) -> bool:
    """Whether there is a number: not None and not NaN."""
    return value is not None and not math.isnan(value)


def number(value: float | int | None) -> str:
    """A number with four significant digits, or "not measured"."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}".replace("-", "−")
    if 1e-3 <= abs(value) < 1e4:
        return f"{float(f'{value:.4g}'):g}".replace("-", "−")
    if 1e4 <= abs(value) < 1e6:
        return f"{value:,.0f}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def measured(value: float | int | None, *, unit: str = "") -> str:
    """A number as HTML: a unit after it, and a quiet "not measured" where there is none."""
    if not is_measured(value):
        return f'<span class="missing">{NOT_MEASURED}</span>'
    return number(value) + (f' <span class="unit">{escape(unit)}</span>' if unit else "")


def interval(low: float | int | None, high: float | int | None) -> str:
    """Both ends in brackets, or that the interval was not measured."""
    if not is_measured(low) or not is_measured(high):
        return f"(interval {NOT_MEASURED})"
    return f"[{number(low)}, {number(high)}]"


def percent(share: float | int | None) -> str:
    """A share of one as "12.3 %"; small ones keep two digits."""
    if share is None or not math.isfinite(share):
        return number(share)
    digits = ".1f" if abs(share) >= 0.001 or share == 0 else ".2g"
    return f"{100 * share:{digits}} %".replace("-", "−")


def duration(seconds: float | int | None) -> str:
    """Seconds as "4.2 s", "3 min 20 s" or "2 h 5 min"."""
    if seconds is None or not math.isfinite(seconds):
        return NOT_MEASURED
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 59.95 else "1 min"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes else f"{hours:,} h"


def size(num_bytes: float | int | None) -> str:
    """Bytes as "512 B" or "1.5 GiB" (powers of 1024)."""
    if num_bytes is None or not math.isfinite(num_bytes):
        return NOT_MEASURED
    power = 0
    amount = float(num_bytes)
    while amount >= 1023.95 and power < len(_SIZES) - 1:
        amount, power = amount / 1024, power + 1
    return f"{amount:.0f} {_SIZES[power]}" if power == 0 else f"{amount:,.1f} {_SIZES[power]}"
