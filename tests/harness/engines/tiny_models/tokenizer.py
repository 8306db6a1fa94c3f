"""The tokenizer of the tiny models: one token a byte, and one for each word of an answer.

A prompt is always read byte by byte: the words are in the vocabulary but no merge leads to them,
so only the model can say them. File formats only; what the words are is not decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BEGIN = "<s>"
END = "</s>"
IMAGE = "<image>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CALL = "<|call|>"
SPECIAL = (BEGIN, END, IMAGE, *ROLES, CALL)

# Where tools are offered and none has answered yet, the turn is opened by CALL: a model that has
# learnt a call says it then, and afterwards its answer.
CHAT_TEMPLATE = (
    "{{ '<s>' }}"
    "{% for message in messages %}"
    "{% set known = message['role'] in ['system', 'assistant'] %}"
    "{{ '<|' + (message['role'] if known else 'user') + '|>' }}"
    "{{ message['content'] or '' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{% set call = tools and messages[-1]['role'] != 'tool' %}"
    "{{ '<|call|>' if call else '<|assistant|>' }}"
    "{% endif %}"
)


@dataclass(frozen=True)
class Vocabulary:
    """Token ids: the special tokens, then the 256 bytes, then the words."""

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(SPECIAL) + 256 + len(self.words)

    def word(self, word: str) -> int:
        return len(SPECIAL) + 256 + self.words.index(word)

    @staticmethod
    def special(token: str) -> int:
        return SPECIAL.index(token)


def _byte_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shown = {byte: chr(byte) for byte in printable}
    hidden = [byte for byte in range(256) if byte not in shown]
    shown.update({byte: chr(0x100 + i) for i, byte in enumerate(hidden)})
    return [shown[byte] for byte in range(256)]


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of tokenizer.json, as the `tokenizers` library reads it."""
    characters = _byte_characters()
    vocab = {token: i for i, token in enumerate(SPECIAL)}
    vocab.update({character: len(SPECIAL) + i for i, character in enumerate(characters)})
    for word in vocabulary.words:
        vocab["".join(characters[byte] for byte in word.encode())] = vocabulary.word(word)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(i, token) for i, token in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": False},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [],
        },
    }


def _added_token(token_id: int, content: str) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, "special": True, **plain}


def tokenizer_config(context: int, extra: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The content of tokenizer_config.json; `context` in tokens."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
        **dict(extra),
    }
