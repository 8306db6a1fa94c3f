"""Lets PyPI's torchvision, which is built for CUDA, be imported beside torch's CPU build.

Its compiled part does not load there, so two operators whose kernels torchvision registers on
import are never declared. They are declared here just before; nothing calls them. Loaded at each
start of the interpreter by a .pth file, so it stays cheap: torch is only imported when torchvision
is.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _DeclareFirst(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            library.define(operator)
        _declared.append(library)  # the declarations go with the object
        return importlib.util.find_spec(name)


_declared: list[object] = []
sys.meta_path.insert(0, _DeclareFirst())
