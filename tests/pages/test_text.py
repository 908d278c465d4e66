import math

import pytest

from bathyscope.pages.text import duration, escape, interval, measured, number, percent, plain, size


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("</script><b>", "&lt;/script&gt;&lt;b&gt;"),
        ("a & \"b\" 'c'", "a &amp; &quot;b&quot; &#x27;c&#x27;"),
        ("line\n\ttab", "line\n\ttab"),
        ("\x00\x1b\x7f\x85", "‹00›‹1B›‹7F›‹85›"),
        ("\ud800", "‹D800›"),
        ("", ""),
    ],
)
def test_escape_leaves_nothing_that_html_or_utf8_refuses(text: str, wanted: str) -> None:
    assert escape(text) == wanted
    escape(text).encode("utf-8")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, "not measured"),
        (math.nan, "not measured"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (0, "0"),
        (0.0, "0"),
        (32.0, "32"),
        (2_097_152, "2,097,152"),
        (-1234, "−1,234"),
        (0.14834, "0.1483"),
        (-0.5, "−0.5"),
        (9999.96, "10000"),
        (12345.6, "12,346"),
        (0.001, "0.001"),
        (0.00099, "9.9e−4"),
        (3e-4, "3e−4"),
        (1.234e-12, "1.23e−12"),
        (1.5e20, "1.5e20"),
    ],
)
def test_numbers_have_four_digits(value: float | None, wanted: str) -> None:
    assert number(value) == wanted


def test_a_missing_number_carries_no_unit() -> None:
    assert "nats" not in measured(math.nan, unit="nats")
    assert measured(0.5, unit="<nats>") == '0.5 <span class="unit">&lt;nats&gt;</span>'


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (None, "not measured"),
        (math.nan, "not measured"),
        (0.5, "0.5 s"),
        (59.99, "1 min"),
        (200, "3 min 20 s"),
        (3599.8, "1 h"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds: float | None, wanted: str) -> None:
    assert duration(seconds) == wanted


@pytest.mark.parametrize(
    ("num_bytes", "wanted"),
    [
        (None, "not measured"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 2**20, "1.5 GiB"),
        (2**60, "1,024.0 PiB"),
    ],
)
def test_sizes(num_bytes: int | None, wanted: str) -> None:
    assert size(num_bytes) == wanted


def test_plain_text_is_one_line_without_control_characters() -> None:
    assert plain("a\n b\t\x1b[1m") == "a b ‹1B›[1m"


@pytest.mark.parametrize(
    ("share", "wanted"),
    [(0.5, "50.0 %"), (0, "0.0 %"), (0.00012, "0.012 %"), (-0.25, "−25.0 %"),
     (None, "not measured"), (math.inf, "∞")],
)  # fmt: skip
def test_percent(share: float | None, wanted: str) -> None:
    assert percent(share) == wanted


def test_interval() -> None:
    assert interval(-1.5, 2) == "[−1.5, 2]"
    assert interval(None, 2) == interval(1, math.nan) == "(interval not measured)"
