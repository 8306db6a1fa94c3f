"""Which answers prove that an engine works."""

from typing import Any

import pytest

from modelserving_api.spec import CompletionCheck
from modelserving_operator.completion import is_doubtful, problem_of, problem_of_embedding, question

ANY = CompletionCheck()
PARIS = CompletionCheck(prompt="The capital of France is", expected_text="Paris")


def answer(
    text: str = ", world",
    tokens: int = 4,
    logprobs: Any = (-0.1, -0.5, -2.0, 0.0),
    model: str = "coder",
) -> dict[str, Any]:
    told = {"token_logprobs": list(logprobs)} if logprobs is not None else None
    return {
        "model": model,
        "choices": [{"text": text, "logprobs": told}],
        "usage": {"completion_tokens": tokens},
    }


def test_text_whose_tokens_are_likely_is_a_working_model() -> None:
    assert problem_of(answer(), "coder", ANY, logprobs=True) is None


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("nonsense", "no choices"),
        (None, "no choices"),
        ({"choices": []}, "no choices"),
        ({"choices": ["text"]}, "no choices"),
        (answer(model="mistral"), "'mistral', not of coder"),
        (answer(tokens=0), "no token was generated"),
        ({**answer(), "usage": None}, "no token was generated"),
        (answer(text=""), "no text"),
        (answer(logprobs=None), "no probabilities"),
        (answer(logprobs=()), "no probabilities"),
        (answer("!!!!", logprobs=(float("nan"),)), "no likely ones"),
        (answer("!!!!", logprobs=(-9999.0, -9999.0)), "no likely ones"),
        (answer("!!!!", logprobs=(None,)), "no likely ones"),
    ],
)
def test_an_answer_that_a_broken_engine_gives_is_found_out(broken: Any, told: str) -> None:
    problem = problem_of(broken, "coder", ANY, logprobs=True)

    assert problem is not None
    assert told in problem


def test_without_probabilities_the_text_alone_counts() -> None:
    assert problem_of(answer(logprobs=None), "coder", ANY, logprobs=False) is None


@pytest.mark.parametrize(
    ("text", "tokens", "doubtful"),
    [
        ("!!!!", 4, True),
        ("! ! ! !", 4, True),
        ("</s></s></s></s>", 4, True),
        ("x", 1, True),
        (", world. I", 4, False),
        ("haha", 4, False),
    ],
)
def test_one_token_over_and_over_is_worth_a_second_question(
    text: str, tokens: int, doubtful: bool
) -> None:
    assert is_doubtful(answer(text, tokens)) == doubtful


def test_an_expected_text_must_be_there_and_is_told_when_it_is_not() -> None:
    assert problem_of(answer(" Paris."), "coder", PARIS, logprobs=True) is None
    problem = problem_of(answer(" London"), "coder", PARIS, logprobs=True)

    assert problem is not None
    assert "'Paris'" in problem
    assert "London" in problem


def test_what_is_told_of_a_long_answer_is_bounded() -> None:
    problem = problem_of(answer("x" * 10_000), "coder", PARIS, logprobs=True)

    assert problem is not None
    assert len(problem) < 1000


def test_more_is_asked_where_a_text_is_expected() -> None:
    few = question("coder", ANY, logprobs=True)
    many = question("coder", PARIS, logprobs=False)

    assert (few["max_tokens"], few["logprobs"]) == (4, 1)
    assert (many["max_tokens"], many["prompt"]) == (32, "The capital of France is")
    assert "logprobs" not in many


@pytest.mark.parametrize(
    ("told", "ok"),
    [
        ({"data": [{"embedding": [0.1, -0.2]}]}, True),
        ({"data": [{"embedding": [float("nan")]}]}, False),
        ({"data": [{"embedding": []}]}, False),
        ({"data": []}, False),
        ([], False),
    ],
)
def test_an_embedding_is_a_list_of_numbers(told: Any, ok: bool) -> None:
    assert (problem_of_embedding(told) is None) == ok
