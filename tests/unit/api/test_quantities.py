"""Quantities are exact, and agree with the pattern that the API server checks."""

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_api.quantities import QUANTITY_PATTERN, parse_quantity

SUFFIXES = ("", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", Decimal(0)),
        ("24Gi", Decimal(24 * 1024**3)),
        ("7.5Gi", Decimal("7.5") * 1024**3),
        ("500m", Decimal("0.5")),
        ("+1k", Decimal(1000)),
        ("1M", Decimal(10**6)),
        ("1Ei", Decimal(1024**6)),
        ("0.1", Decimal("0.1")),
    ],
)
def test_a_quantity_is_its_exact_value(text: str, value: Decimal) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text", ["", "Gi", "7GB", "7 Gi", "-1", "1e9", "1.", ".5", "7gi", "1K", "7Gi\n", "٣", "1_000"]
)
def test_what_is_no_quantity_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity") as refused:
        parse_quantity(text)
    assert repr(text) in str(refused.value)


@given(
    digits=st.integers(min_value=0, max_value=10**9),
    fraction=st.integers(min_value=0, max_value=999),
    suffix=st.sampled_from(SUFFIXES),
)
def test_every_suffix_scales_exactly(digits: int, fraction: int, suffix: str) -> None:
    unit = parse_quantity(f"1{suffix}")
    written = f"{digits}.{fraction:03}{suffix}"
    assert parse_quantity(written) == (digits + Decimal(fraction) / 1000) * unit


@given(st.text(alphabet="0123456789+-.eEkKmMGTPi\n ", max_size=12) | st.text(max_size=12))
def test_the_parser_takes_exactly_what_the_servers_pattern_takes(text: str) -> None:
    """Go's `$` is the end of the text; fullmatch is Python's way of saying so."""
    accepted = re.fullmatch(QUANTITY_PATTERN.removesuffix("$"), text) is not None
    try:
        parse_quantity(text)
    except ValueError:
        assert not accepted
    else:
        assert accepted
