"""The completion that a loaded engine must give: what is asked, and what is wrong with an answer.

Pure: JSON in, findings out. A healthy port is not a working model (vllm #16234, #29341): corrupt
weights or logits give empty text, or the same token for ever, whose probability is no number.
Probabilities are asked for only where one token is all that came: for the first of them an engine
compiles for seconds, or ends where it has no compiler.
"""

import math
from typing import Any, Final

from modelserving_api.spec import CompletionCheck

JsonObject = dict[str, Any]

_TOKENS: Final = 4
"""Enough for a character of several tokens to be whole, and less than 0.2 s on a small card."""

_TOKENS_TO_EXPECT: Final = 32
"""Where a text is expected; the contract names this number."""

_NO_LOGPROB: Final = -9999.0
"""What vLLM writes for a probability of zero, which the likeliest token cannot have."""


def question(model: str, check: CompletionCheck, *, logprobs: bool) -> JsonObject:
    """Return the body for /v1/completions, as vLLM 0.32 takes it.

    `logprobs`: also ask for the tokens' probabilities. Special tokens are shown and the end is
    ignored, so that a model that has nothing to say still gives text.
    """
    body: JsonObject = {
        "model": model,
        "prompt": check.prompt,
        "max_tokens": _TOKENS if check.expected_text is None else _TOKENS_TO_EXPECT,
        "temperature": 0,
        "ignore_eos": True,
        "skip_special_tokens": False,
    }
    return {**body, "logprobs": 1} if logprobs else body


def problem_of(answer: Any, model: str, check: CompletionCheck, *, logprobs: bool) -> str | None:
    """Return what is wrong with a completion, or None when nothing is."""
    choice = _first_choice(answer)
    if choice is None:
        return "the completion has no choices"
    if answer.get("model") != model:
        return f"the answer is of {answer.get('model')!r:.100}, not of {model}"
    if _count(answer) < 1:
        return "the completion is empty: no token was generated"
    text = choice.get("text")
    if not isinstance(text, str) or not text:
        return "the completion is empty: its tokens have no text"
    if logprobs and (problem := _problem_of_logprobs(choice)) is not None:
        return f"{problem}; the text was {text[:100]!r}"
    if check.expected_text is not None and check.expected_text not in text:
        return f"the completion does not hold {check.expected_text!r}: {text[:300]!r}"
    return None


def is_doubtful(answer: JsonObject) -> bool:
    """Return whether a completion without a problem is one token over and over."""
    choice = _first_choice(answer)
    text = choice.get("text") if choice is not None else ""
    count = _count(answer)
    if not isinstance(text, str) or count < 1:
        return True
    # A tokenizer may take the space off a text's first token.
    return any(_repeats(each, count) for each in (text, f" {text}"))


def _repeats(text: str, times: int) -> bool:
    return text == text[: len(text) // times] * times


def problem_of_embedding(answer: Any) -> str | None:
    """Return what is wrong with an embedding, or None when nothing is."""
    data = answer.get("data") if isinstance(answer, dict) else None
    first = data[0] if isinstance(data, list) and data else None
    vector = first.get("embedding") if isinstance(first, dict) else None
    if not isinstance(vector, list) or not vector:
        return "an empty embedding"
    if not all(_is_number(each) for each in vector):
        return "an embedding that holds what is no number"
    return None


def _first_choice(answer: Any) -> JsonObject | None:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


def _count(answer: JsonObject) -> int:
    usage = answer.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def _problem_of_logprobs(choice: JsonObject) -> str | None:
    told = choice.get("logprobs")
    values = told.get("token_logprobs") if isinstance(told, dict) else None
    if not isinstance(values, list) or not values:
        return "the completion's tokens have no probabilities"
    if not all(_is_number(each) and each > _NO_LOGPROB for each in values):
        return f"the completion's tokens are no likely ones (logprobs {values[:4]})"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
