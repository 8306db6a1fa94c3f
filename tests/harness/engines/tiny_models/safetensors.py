"""Tensors as plain arrays of float32, and the safetensors file that holds them.

Nothing here knows what a model is. The format: https://huggingface.co/docs/safetensors
(8 bytes of little-endian header length, a JSON header, then the raw values).
"""

from __future__ import annotations  # array is no generic at run time before 3.12

import json
import math
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Tensor:
    """A float32 tensor in row-major order; zero where nothing was set."""

    shape: tuple[int, ...]
    values: array[float] = field(init=False)

    def __post_init__(self) -> None:
        self.values = array("f", bytes(4 * math.prod(self.shape)))

    def __setitem__(self, index: tuple[int, ...], value: float) -> None:
        self.values[self._offset(index)] = value

    def __getitem__(self, index: tuple[int, ...]) -> float:
        return self.values[self._offset(index)]

    def _offset(self, index: tuple[int, ...]) -> int:
        if len(index) != len(self.shape):
            raise IndexError(f"{index} does not index a tensor of shape {self.shape}")
        offset = 0
        for position, size in zip(index, self.shape, strict=True):
            if not 0 <= position < size:
                raise IndexError(f"{index} lies outside a tensor of shape {self.shape}")
            offset = offset * size + position
        return offset


def ones(size: int) -> Tensor:
    """A vector of ones: the weight of a norm that changes no scale."""
    tensor = Tensor((size,))
    for i in range(size):
        tensor[i,] = 1.0
    return tensor


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` as one safetensors file, in the order of their names."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(tensors):
        size = 4 * len(tensors[name].values)
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)))
        file.write(encoded)
        for name in sorted(tensors):
            file.write(tensors[name].values.tobytes())
