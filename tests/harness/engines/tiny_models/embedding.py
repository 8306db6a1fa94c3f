"""A model whose embedding of a text is the average of its bytes: the same letters are near.

Attention is the same everywhere, so the last token, from which vLLM's pooler takes the embedding,
has copied the average of all that stand before it. Each byte is a direction of its own, fixed by a
hash: the angle between two texts says how many letters they share. Pure: data only.
"""

import hashlib
from typing import Any, Final

from tests.harness.engines.tiny_models import text
from tests.harness.engines.tiny_models.safetensors import Tensor
from tests.harness.engines.tiny_models.tokenizer import SPECIAL, Vocabulary

LETTERS: Final = text.HIDDEN // 2
"""Dimensions in which a byte is written; what the average of them all is goes to the other half."""

SILENT: Final = text.Answer(("(a model", " that does", " not speak)"))
"""It is never asked for a word, but a tokenizer has some."""


def weights() -> dict[str, Tensor]:
    """The checkpoint, in the names of Llama's."""
    tensors = text.weights(SILENT)
    tensors["model.embed_tokens.weight"] = _letters()
    layer = "model.layers.0.self_attn"
    # No query asks for anything and no key offers any: every token looks at all before it alike.
    tensors[f"{layer}.q_proj.weight"] = Tensor((text.HIDDEN, text.HIDDEN))
    tensors[f"{layer}.k_proj.weight"] = Tensor((text.HIDDEN, text.HIDDEN))
    value, output = Tensor((text.HIDDEN, text.HIDDEN)), Tensor((text.HIDDEN, text.HIDDEN))
    for i in range(LETTERS):
        value[i, i] = 1.0
        output[LETTERS + i, i] = AVERAGE_WEIGHS
    tensors[f"{layer}.v_proj.weight"] = value
    tensors[f"{layer}.o_proj.weight"] = output
    return tensors


AVERAGE_WEIGHS: Final = 100.0
"""So much more than the last byte itself that only the average tells in the end."""


def _letters() -> Tensor:
    vocabulary = Vocabulary(SILENT.words)
    embedding = Tensor((vocabulary.size, text.HIDDEN))
    for byte in range(256):
        signs = hashlib.sha256(bytes([byte])).digest()
        for i in range(LETTERS):
            embedding[len(SPECIAL) + byte, i] = 1.0 if signs[i] % 2 else -1.0
    return embedding


def config() -> dict[str, Any]:
    """The content of config.json."""
    return text.config("LlamaForCausalLM", "llama", SILENT)
