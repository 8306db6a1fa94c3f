"""What engines say at their end, as vLLM and what it stands on print it."""

import pytest

from modelserving_operator import words


@pytest.mark.parametrize(
    "text",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB.",
        "torch.OutOfMemoryError: HIP out of memory.",
        "ValueError: No available memory for the cache blocks. Try increasing"
        " `gpu_memory_utilization` when initializing the engine.",
        "ValueError: Free memory on device cuda:0 (2.02/21.96 GiB) on startup is less than desired"
        " GPU memory utilization (0.92, 20.2 GiB).",
        "ValueError: To serve at least one request with the model's max seq len (40960), (4.38 GiB"
        " KV cache is needed, which is larger than the available KV cache memory (1.0 GiB).",
    ],
)
def test_too_little_gpu_memory_is_told_from_other_ends(text: str) -> None:
    assert words.out_of_gpu_memory(f"(EngineCore pid=7) ERROR {text}")
    assert not words.weights_missing(text)


@pytest.mark.parametrize(
    "text",
    [
        "ValueError: Invalid repository ID or local directory specified: '/mnt/models/coder'.",
        "RuntimeError: Cannot find any model weights with `/mnt/models/coder`",
        "OSError: /mnt/models/coder does not appear to have a file named config.json.",
        "OSError: nobody/nothing is not a local folder and is not a valid model identifier listed",
        "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.",
    ],
)
def test_weights_that_are_not_there_are_told_from_other_ends(text: str) -> None:
    assert words.weights_missing(text)
    assert not words.out_of_gpu_memory(text)


@pytest.mark.parametrize(
    "text", ["", "error: unrecognized arguments: --frobnicate", "Killed", "Segmentation fault"]
)
def test_other_ends_are_crashes(text: str) -> None:
    assert not words.weights_missing(text)
    assert not words.out_of_gpu_memory(text)


def test_long_last_words_keep_their_end() -> None:
    assert words.last("x" * 9000 + "the end").endswith("the end")
    assert len(words.last("x" * 9000)) < 2000
    assert words.last(" \n") == ""


VLLM_0_32 = """\
(APIServer pid=1) WARNING 11-24 17:46:57 [system_utils.py:255] Found ulimit of 20000 and failed
(EngineCore pid=17) ERROR 11-24 17:47:16 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=17) ERROR 11-24 17:47:16 [core.py:1510]   File "/shm_broadcast.py", line 253, in f
(EngineCore pid=17) ERROR 11-24 17:47:16 [core.py:1510]     raise RuntimeError(
(EngineCore pid=17) ERROR 11-24 17:47:16 [core.py:1510] RuntimeError: Insufficient space in /dev/shm
Process EngineCore:
Traceback (most recent call last):
  File "/usr/lib/python3.11/multiprocessing/process.py", line 314, in _bootstrap
    raise e
RuntimeError: Insufficient space in /dev/shm
Traceback (most recent call last):
  File "/opt/engine/engine.py", line 40, in <module>
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
(APIServer pid=1) INFO 11-24 17:47:21 [utils.py:628] [shutdown] Process manager: send sigterm
"""


def test_the_cause_is_found_among_the_tracebacks_of_vllms_processes() -> None:
    assert words.name_no_cause(VLLM_0_32[-200:])
    assert words.cause(VLLM_0_32) == "RuntimeError: Insufficient space in /dev/shm"
    assert words.cause("nothing of the kind") == ""
