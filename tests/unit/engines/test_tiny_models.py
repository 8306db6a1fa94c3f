"""The tiny models as files: vLLM itself reads them in the cluster tests."""

import json
import math
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.engines.tiny_models import embedding, generate, text, tokenizer, vision
from tests.harness.engines.tiny_models.safetensors import Tensor


def recite(
    answer: text.Answer, seen: dict[int, float] | None = None, *, begin: str = "<|assistant|>"
) -> str:
    """What the weights say, greedily, when a picture's features `seen` were copied in.

    A forward pass in a few lines: attention adds `seen` and the MLP adds nothing.
    """
    tensors = text.weights(answer)
    embedding, output = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    vocabulary = tokenizer.Vocabulary(answer.words)
    token, said = vocabulary.special(begin), ""
    for _ in range(len(answer.words) + 1):
        state = [embedding[token, i] for i in range(text.HIDDEN)]
        for feature, strength in (seen or {}).items():
            state[text.SEEN + feature] += strength
        logits = [
            math.fsum(output[row, i] * state[i] for i in range(text.HIDDEN) if state[i])
            for row in range(vocabulary.size)
        ]
        token = max(range(vocabulary.size), key=logits.__getitem__)
        if token == vocabulary.special(tokenizer.END):
            return said
        said += answer.words[token - vocabulary.word(answer.words[0])]
    raise AssertionError(f"the answer has no end: {said}")


def test_each_model_recites_its_own_answer() -> None:
    assert recite(generate.MISTRAL) == "I am mistral, the smallest of its kind."
    assert recite(generate.CODER) == "def answer():\n    return 42\n"


def test_mistral_calls_a_tool_where_the_prompt_ends_with_the_token_for_it() -> None:
    call = recite(generate.MISTRAL, begin=tokenizer.CALL)
    content = call.removeprefix("<tool_call>").removesuffix("</tool_call>")
    assert len(content) == len(call) - len("<tool_call></tool_call>")
    assert json.loads(content) == {"name": "look_up", "arguments": {"word": "kind"}}


def test_a_model_without_a_call_answers_there_as_anywhere() -> None:
    assert recite(generate.CODER, begin=tokenizer.CALL) == recite(generate.CODER)


def embed(words: str) -> list[float]:
    """The embedding of a text: attention averages the bytes, and the norm makes it length one.

    The forward pass in a few lines, as for `recite`.
    """
    tensors = embedding.weights()
    letters = tensors["model.embed_tokens.weight"]
    output = tensors["model.layers.0.self_attn.o_proj.weight"]
    first = len(tokenizer.SPECIAL)
    rows = [[letters[first + byte, i] for i in range(text.HIDDEN)] for byte in words.encode()]
    state = list(rows[-1])
    for i in range(embedding.LETTERS):
        average = math.fsum(row[i] for row in rows) / len(rows)
        state[embedding.LETTERS + i] += output[embedding.LETTERS + i, i] * average
    length = math.sqrt(math.fsum(value * value for value in state))
    return [value / length for value in state]


def dot(one: list[float], other: list[float]) -> float:
    """The cosine of two vectors of length one."""
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def test_texts_of_the_same_letters_are_near_and_others_are_not() -> None:
    apple, apples, other = embed("red apple"), embed("red apples"), embed("xyz")
    assert dot(apple, apples) > 0.9
    assert abs(dot(apple, other)) < 0.5


@pytest.mark.parametrize(
    ("seen", "colour"),
    [
        ({}, "missing"),
        ({vision.SIGHT: 1.0}, "dark"),
        ({vision.SIGHT: 1.0, vision.RED: 1.0}, "red"),
        ({vision.SIGHT: 1.0, vision.GREEN: 1.0}, "green"),
        ({vision.SIGHT: 1.0, vision.BLUE: 1.0}, "blue"),
        ({vision.SIGHT: 1.0, vision.RED: 0.75, vision.GREEN: 0.75, vision.BLUE: 0.75}, "white"),
    ],
)
def test_llava_names_the_colour_that_it_sees(seen: dict[int, float], colour: str) -> None:
    assert recite(generate.LLAVA, seen) == f"The picture is {colour} to me."


@settings(max_examples=30, deadline=None)  # each is a forward pass in Python
@given(st.lists(st.text(min_size=2, max_size=8), min_size=1, max_size=text.WORDS, unique=True))
def test_any_distinct_words_are_recited_in_order(words: list[str]) -> None:
    assert recite(text.Answer(tuple(words))) == "".join(words)


@pytest.mark.parametrize("words", [("to be", " or", " or"), ("x", " y"), ("ab",) * 99])
def test_words_that_could_not_be_told_apart_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="word"):
        text.Answer(words)


def test_every_byte_and_every_word_has_a_token_of_its_own() -> None:
    vocabulary = tokenizer.Vocabulary(generate.LLAVA.words)
    model = tokenizer.tokenizer_json(vocabulary)["model"]
    assert sorted(model["vocab"].values()) == list(range(vocabulary.size))


def test_a_model_is_whole_and_readable_by_anybody(tmp_path: Path) -> None:
    for name, directory in generate.ensure_models(tmp_path).items():
        config = json.loads((directory / "config.json").read_text())
        size = config.get("text_config", config)["vocab_size"]
        shapes = read_shapes(directory / "model.safetensors")
        embedding = next(shape for key, shape in shapes.items() if "embed_tokens" in key)
        assert embedding == [size, text.HIDDEN]
        assert (directory / "tokenizer.json").stat().st_mode & 0o004
        assert directory.stat().st_mode & 0o005 == 0o005
        assert ("vision_config" in config) == (name == "llava")


def read_shapes(path: Path) -> dict[str, Any]:
    """The shapes in a safetensors file, whose header must describe it to the last byte."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__")
    ends = [entry["data_offsets"][1] for entry in header.values()]
    assert max(ends) == len(content) - 8 - size
    return {name: entry["shape"] for name, entry in header.items()}


def test_models_are_made_once(tmp_path: Path) -> None:
    first = generate.ensure_models(tmp_path)["mistral"].stat()
    assert generate.ensure_models(tmp_path)["mistral"].stat().st_ino == first.st_ino


def test_models_of_another_generator_and_leftovers_are_replaced(tmp_path: Path) -> None:
    mistral = tmp_path / "mistral"
    mistral.mkdir()
    (mistral / "config.json").write_text("{}")
    (tmp_path / ".mistral-killed").mkdir()
    generate.ensure_models(tmp_path)
    assert json.loads((mistral / "config.json").read_text())["model_type"] == "mistral"
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["coder", "embedder", "llava", "mistral"]


def test_two_callers_at_once_both_get_whole_models(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(generate.ensure_models, [tmp_path] * 4))
    assert all((each["llava"] / "model.safetensors").exists() for each in made)


def test_a_tensor_refuses_an_index_outside_it() -> None:
    tensor = Tensor((2, 3))
    tensor[1, 2] = 0.5
    assert tensor[1, 2] == 0.5
    for index in ((2, 0), (0, 3), (-1, 0), (0,)):
        with pytest.raises(IndexError):
            tensor[index]
