"""An engine's last words: what they tell, and how much of them a person is shown.

Pure, over text. The signs are those of vLLM 0.32, PyTorch, transformers and huggingface_hub, all
in lower case; a text without any of them is no more than a crash.
"""

import re
from typing import Final

_LONGEST: Final = 1500
"""Characters of the last words that fit into a condition a person still reads."""

_OUT_OF_GPU_MEMORY: Final = (
    # PyTorch (torch.OutOfMemoryError: CUDA out of memory), ROCm's, and the driver's own.
    "out of memory",
    "outofmemoryerror",
    "cublas_status_alloc_failed",
    # vLLM before it loads: somebody else holds the memory.
    "on startup is less than desired gpu memory utilization",
    # vLLM after it has loaded: nothing is left for the cache, or not enough.
    "no available memory for the cache blocks",
    "is larger than the available kv cache memory",
)

_NO_CAUSE: Final = "engine core initialization failed. see root cause above"
"""What vLLM's API server says when another of its processes has ended. The 2048 bytes that the
kubelet keeps hold its traceback alone, and the cause stands above that."""

_EXCEPTION: Final = re.compile(
    r"^(?:\([^)]*\)\s*)?(?:ERROR [^\]]*\]\s*)?([\w.]*(?:Error|Exception)\b.*)"
)
"""The last line of a traceback, without the process and the place that vLLM puts before it."""

_CAUSES: Final = 3
"""Different exceptions of one end that are told: what was raised first, and what it led to."""

_WEIGHTS_MISSING: Final = (
    # vLLM: no config.json, or no file of weights.
    "invalid repository id or local directory specified",
    "cannot find any model weights with",
    # transformers: no such directory is taken for an id of the hub.
    "does not appear to have a file named config.json",
    "is not a valid model identifier",
    "can't load the configuration of",
    # huggingface_hub
    "repository not found for url",
    "repositorynotfounderror",
    "revision not found for url",
    "repo id must be in the form",
    # The operating system
    "no such file or directory: '/mnt/models",
)


def out_of_gpu_memory(text: str) -> bool:
    """Return whether an engine ended for want of GPU memory."""
    return _has(text, _OUT_OF_GPU_MEMORY)


def weights_missing(text: str) -> bool:
    """Return whether an engine ended because there was nothing to load."""
    return _has(text, _WEIGHTS_MISSING)


def no_weights_directory(trouble: str) -> bool:
    """Return whether a kubelet found no directory where the weights should be."""
    return 'volume "weights"' in trouble and "hostPath type check failed" in trouble


def name_no_cause(text: str) -> bool:
    """Return whether last words say that the cause stands further up in the log."""
    return _NO_CAUSE in text.lower()


def cause(log: str) -> str:
    """Return the exceptions that a log ends with, the one that others followed first."""
    found = [match[1].strip() for line in log.splitlines() if (match := _EXCEPTION.match(line))]
    causes = [each for each in dict.fromkeys(found) if not name_no_cause(each)]
    return "\n".join(causes[-_CAUSES:])


def last(text: str) -> str:
    """Return the last words as they are appended to a message; empty when there are none."""
    text = text.strip()
    return f"; its last words: {text[-_LONGEST:]}" if text else ""


def _has(text: str, signs: tuple[str, ...]) -> bool:
    lowered = text.lower()
    return any(sign in lowered for sign in signs)
