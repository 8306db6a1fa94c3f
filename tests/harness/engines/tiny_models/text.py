"""A transformer of one layer whose weights are written down so that it recites one answer.

Each word of the answer has a dimension of its own in the hidden state: the embedding of a word
sets it, and the output matrix reads it as "now comes the next word". Whatever is no word of the
answer (a byte of the prompt, the end of the chat template) sets the dimension START, which leads
to the first word. A model that calls a tool recites a second line in the same way, which begins at
the token CALL (`tokenizer` says when a prompt ends with it). The MLP is all zeros. Attention is
too, but for a model that sees pictures: there every token looks at the picture's tokens alone and
copies their features (`vision`), and one word of the answer is chosen by them.

Pure: weights and configuration as data. The names are those of Llama's and Mistral's checkpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.harness.engines.tiny_models.safetensors import Tensor, ones
from tests.harness.engines.tiny_models.tokenizer import BEGIN, CALL, END, SPECIAL, Vocabulary

HIDDEN = 64
HEADS = 2
HEAD_DIM = 32  # the smallest that vLLM's attention on a CPU takes
INTERMEDIATE = 64
CONTEXT = 8192  # tokens; one is a byte of the prompt

# Dimensions of the hidden state. Words of the answer use 0 … WORDS - 1.
WORDS = 44
START = 44
ANY = 45  # set for every token: what queries are made of
PICTURE = 46  # set for a picture's tokens: what keys are made of
CALLING = 47  # where the call of a tool begins, as the answer does at START
FEATURES = 48  # the first of the picture's features, on its own tokens
SEEN = 56  # the first of the same features, copied to the token that looks

# A word that follows leads every other by about 50 in its logit, so that it is said at any usual
# temperature; what was seen weighs less than that, and decides only between words that all follow.
FOLLOWS = 12.0
SEES = 8.0
OTHERWISE = 2.4
# Rotary embedding turns the pair of dimensions (15, 31) of a head slowest, by 0.0002 rad a token:
# across the whole context a query still matches its key.
STEADY = 15
LOOKS = 3.0


@dataclass(frozen=True)
class Choice:
    """A place in the answer where the picture decides.

    `scores` has for each word what each feature says for it (or, negative, against it); the word
    `otherwise` is said when no feature speaks.
    """

    scores: Mapping[str, Mapping[int, float]]
    otherwise: str

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.scores)


@dataclass(frozen=True)
class Answer:
    """What the model recites, word by word; `call` instead, where it is to call a tool.

    Words must be distinct, since each is a state, and longer than a byte, since every single byte
    is a token already. Raises ValueError otherwise.
    """

    parts: tuple[str | Choice, ...]
    call: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        words: list[str] = []
        for part in self.parts:
            words.extend([part] if isinstance(part, str) else part.words)
        return (*words, *self.call)

    def __post_init__(self) -> None:
        if len(set(self.words)) != len(self.words):
            raise ValueError(f"a word is said twice, so what follows it is unclear: {self.words}")
        if any(len(word.encode()) < 2 for word in self.words):
            raise ValueError(f"a word of one byte is no word of its own: {self.words}")
        if len(self.words) > WORDS:
            raise ValueError(f"{len(self.words)} words do not fit {WORDS} dimensions")


def weights(answer: Answer, *, prefix: str = "", head: str = "lm_head.weight") -> dict[str, Tensor]:
    """The checkpoint of the language model that recites `answer`."""
    layer = f"{prefix}model.layers.0"
    attention = f"{layer}.self_attn"
    query, key = Tensor((HIDDEN, HIDDEN)), Tensor((HIDDEN, HIDDEN))
    value, output = Tensor((HIDDEN, HIDDEN)), Tensor((HIDDEN, HIDDEN))
    query[STEADY, ANY] = LOOKS
    key[STEADY, PICTURE] = LOOKS
    for i in range(SEEN - FEATURES):
        value[i, FEATURES + i] = 1.0
        output[SEEN + i, i] = 0.25  # about the scale of a word's own dimension before the norm
    return {
        f"{prefix}model.embed_tokens.weight": _embedding(answer),
        f"{prefix}model.norm.weight": ones(HIDDEN),
        f"{layer}.input_layernorm.weight": ones(HIDDEN),
        f"{layer}.post_attention_layernorm.weight": ones(HIDDEN),
        f"{attention}.q_proj.weight": query,
        f"{attention}.k_proj.weight": key,
        f"{attention}.v_proj.weight": value,
        f"{attention}.o_proj.weight": output,
        f"{layer}.mlp.gate_proj.weight": Tensor((INTERMEDIATE, HIDDEN)),
        f"{layer}.mlp.up_proj.weight": Tensor((INTERMEDIATE, HIDDEN)),
        f"{layer}.mlp.down_proj.weight": Tensor((HIDDEN, INTERMEDIATE)),
        head: _output(answer),
    }


def _embedding(answer: Answer) -> Tensor:
    vocabulary = Vocabulary(answer.words)
    embedding = Tensor((vocabulary.size, HIDDEN))
    for token in range(vocabulary.size):
        embedding[token, ANY] = 1.0
    for token in range(len(SPECIAL) + 256):
        calls = bool(answer.call) and token == vocabulary.special(CALL)
        embedding[token, CALLING if calls else START] = 1.0
    for state, word in enumerate(answer.words):
        embedding[vocabulary.word(word), state] = 1.0
    return embedding


def _output(answer: Answer) -> Tensor:
    vocabulary = Vocabulary(answer.words)
    matrix = Tensor((vocabulary.size, HIDDEN))
    _recite(matrix, answer, START, answer.parts)
    if answer.call:
        _recite(matrix, answer, CALLING, answer.call)
    return matrix


def _recite(matrix: Tensor, answer: Answer, begin: int, parts: Sequence[str | Choice]) -> None:
    """Lead from the state `begin` through `parts` to the end."""
    vocabulary = Vocabulary(answer.words)
    leads = [begin]
    for part in parts:
        scores = part.scores if isinstance(part, Choice) else {part: {}}
        for word, features in scores.items():
            lead = OTHERWISE if isinstance(part, Choice) and word == part.otherwise else 0.0
            for state in leads:
                matrix[vocabulary.word(word), state] = FOLLOWS + lead
            for feature, score in features.items():
                matrix[vocabulary.word(word), SEEN + feature] = SEES * score
        leads = [answer.words.index(word) for word in scores]
    for state in leads:
        matrix[vocabulary.special(END), state] = FOLLOWS


def config(architecture: str, model_type: str, answer: Answer) -> dict[str, Any]:
    """The content of config.json, as transformers reads it."""
    vocabulary = Vocabulary(answer.words)
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "vocab_size": vocabulary.size,
        "bos_token_id": vocabulary.special(BEGIN),
        "eos_token_id": vocabulary.special(END),
        "pad_token_id": vocabulary.special(END),
        "torch_dtype": "float32",
    }
