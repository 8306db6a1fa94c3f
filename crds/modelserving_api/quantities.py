"""Kubernetes quantities ("24Gi", "500m") as exact numbers.

Only parsing and comparing; formatting is left to whoever wrote the quantity.
Source: k8s.io/apimachinery/pkg/api/resource, quantity.go.
"""

import re
from decimal import Decimal
from typing import Final

QUANTITY_PATTERN: Final = r"^\+?[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
"""The forms that people write; the exponent form ("1e9") is left out on purpose."""

_FACTORS: Final[dict[str, Decimal]] = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}
_PARSER: Final = re.compile(r"\+?([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)")


def parse_quantity(text: str) -> Decimal:
    """Return the value in base units (bytes for memory, cores for cpu).

    Raises ValueError when the text is not a quantity.
    """
    match = _PARSER.fullmatch(text)
    if match is None or match.group(2) not in _FACTORS:
        raise ValueError(f"{text!r} is not a quantity such as 7Gi or 500m")
    return Decimal(match.group(1)) * _FACTORS[match.group(2)]
