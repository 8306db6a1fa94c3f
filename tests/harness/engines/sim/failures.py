"""How the stand-in dies, with the words that vLLM uses, since the operator reads them."""

import os
import sys
from typing import NoReturn

OUT_OF_MEMORY = """\
(EngineCore pid={pid}) ERROR [core.py:1124] EngineCore failed to start.
(EngineCore pid={pid}) ERROR [core.py:1124] Traceback (most recent call last):
(EngineCore pid={pid}) ERROR [core.py:1124]   File "/sim/engine.py", line 1, in load_model
(EngineCore pid={pid}) ERROR [core.py:1124] torch.OutOfMemoryError: CUDA out of memory. Tried to \
allocate 224.00 MiB. GPU 0 has a total capacity of 21.96 GiB of which 98.88 MiB is free. Process \
1 has 21.86 GiB memory in use.
Traceback (most recent call last):
  File "/sim/__main__.py", line 1, in <module>
{traceback}RuntimeError: Engine core initialization failed. See root cause above. Failed core \
proc(s): {{'EngineCore': 1}}
"""

_TRACEBACK = """\
  File "/opt/venv/lib/python3.11/site-packages/vllm/v1/engine/async_llm.py", line 184, in __init__
    self.engine_core = EngineCoreClient.make_async_mp_client(
                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
"""
"""Of vLLM's API server, so long that a kubelet, which keeps 2048 bytes, loses the cause above."""

_CHUNK_BYTES = 16 << 20
_MOST_BYTES = 512 << 20
"""Where no limit is kept, the machine must not be what ends it."""

NO_WEIGHTS = """\
(APIServer pid={pid}) pydantic_core._pydantic_core.ValidationError: 1 error for ModelConfig
(APIServer pid={pid})   Value error, Invalid repository ID or local directory specified: 'sim'.
(APIServer pid={pid}) Please verify the following requirements:
(APIServer pid={pid}) 1. Provide a valid Hugging Face repository ID.
"""


def die_without_weights() -> NoReturn:
    """Say that there is nothing to load, and exit with 1."""
    sys.stderr.write(NO_WEIGHTS.format(pid=os.getpid()))
    sys.stderr.flush()
    os._exit(1)


def die_of_memory() -> NoReturn:
    """Print the traceback of an engine that finds no free memory on its GPU, and exit with 1."""
    sys.stderr.write(OUT_OF_MEMORY.format(pid=os.getpid(), traceback=_TRACEBACK * 10))
    sys.stderr.flush()
    os._exit(1)


def exceed_memory_limit() -> NoReturn:
    """Take memory of the node until the kernel ends this for its container's limit."""
    taken = [bytearray(_CHUNK_BYTES)]
    while len(taken) * _CHUNK_BYTES < _MOST_BYTES:
        # Written to, since the kernel counts no page that was only asked for.
        taken.append(bytearray(os.urandom(1) * _CHUNK_BYTES))
    sys.stderr.write(f"no memory limit has ended this at {_MOST_BYTES >> 20} MiB (sim)\n")
    sys.stderr.flush()
    os._exit(1)


def crash(code: int) -> NoReturn:
    """End at once with `code`, as a program does that trips over its own configuration."""
    sys.stderr.write("Traceback (most recent call last):\nRuntimeError: the engine crashed (sim)\n")
    sys.stderr.flush()
    os._exit(code)
