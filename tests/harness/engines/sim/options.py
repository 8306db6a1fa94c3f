"""vLLM's command line, as far as the stand-in has a use for it.

Every other flag is accepted and left alone: a manifest written for vLLM starts this too.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_CONTEXT = 8192  # tokens, when --max-model-len is not given


@dataclass(frozen=True)
class Options:
    """What the command line says. Times in seconds, lengths in tokens."""

    model: str
    served_model_names: tuple[str, ...]
    host: str
    port: int
    shutdown_timeout: float
    max_model_len: int
    max_num_seqs: int
    ignored: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that answers and metrics carry: the first of the served ones, as in vLLM."""
        return self.served_model_names[0]


def parse(arguments: Sequence[str]) -> Options:
    """Read vLLM's flags; like argparse, exits with 2 and a message when one cannot be read.

    As in `vllm serve MODEL …`, a first argument that is no flag is the model.
    """
    arguments = list(arguments)
    if arguments[:1] == ["serve"]:
        arguments = arguments[1:]
    positional = None
    if arguments and not arguments[0].startswith("-"):
        positional = arguments.pop(0)
    parser = argparse.ArgumentParser(prog="sim", allow_abbrev=False)
    parser.add_argument("--model", default=positional)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--shutdown-timeout", type=float, default=0.0)
    parser.add_argument("--max-model-len", type=int, default=DEFAULT_CONTEXT)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    known, ignored = parser.parse_known_args(arguments)
    if known.model is None:
        parser.error("no model: give --model")
    return Options(
        model=known.model,
        served_model_names=tuple(known.served_model_name or [known.model]),
        host=known.host,
        port=known.port,
        shutdown_timeout=known.shutdown_timeout,
        max_model_len=known.max_model_len,
        max_num_seqs=known.max_num_seqs,
        ignored=tuple(ignored),
    )
