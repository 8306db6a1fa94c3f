"""Keys are found by their hash and nothing else; each key is held to its limits, exactly."""

import hashlib
import json
import secrets
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelserving_api.priority import Priority
from modelserving_gateway.access import key_command
from modelserving_gateway.access.access import ANONYMOUS, Access, Caller
from modelserving_gateway.access.keys import KeysError, read_keys
from modelserving_gateway.access.rate import WINDOW_SECONDS, MinuteRate
from modelserving_gateway.api.errors import ApiError

KEY = "ms-alice"
OTHER = "ms-bob"


def entry(key: str = KEY, **fields: Any) -> dict[str, Any]:
    return {"name": "alice", "sha256": hashlib.sha256(key.encode()).hexdigest(), **fields}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def access(*entries: dict[str, Any], clock: Clock | None = None) -> Access:
    created = Access(clock or Clock(), required=True)
    created.replace(read_keys(json.dumps(entries)))
    return created


def bearer(key: str = KEY) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + key.encode())]


def refusal(of: Access, headers: list[tuple[bytes, bytes]]) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        of.identify(headers)
    return caught.value.status, caught.value.code


def entered(by: Access, caller: Caller) -> tuple[str, float | None] | None:
    """Enter and leave at once; returns why that is refused and for how long, None if it is not."""
    try:
        with by.entered(caller):
            return None
    except ApiError as error:
        return error.code, error.retry_after


@pytest.mark.parametrize(
    "headers",
    [
        bearer(),
        [(b"Authorization", b"bearer   " + KEY.encode() + b" ")],
        [(b"X-Api-Key", KEY.encode())],
        [(b"authorization", b"Basic abc"), (b"x-api-key", KEY.encode())],
        [*bearer("placeholder"), (b"x-api-key", KEY.encode())],
    ],
)
def test_a_key_is_found_wherever_clients_put_it(headers: list[tuple[bytes, bytes]]) -> None:
    assert access(entry()).identify(headers).name == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", KEY.encode())],
        [(b"authorization", b"Basic " + KEY.encode())],
        [(b"cookie", b"key=" + KEY.encode())],
        bearer(""),
        bearer(KEY + "x"),
        bearer(KEY.upper()),
        bearer(entry()["sha256"]),
        bearer("x" * 100_000),
        [(b"authorization", b"Bearer \xff\x00")],
    ],
)
def test_anything_else_is_401_and_never_repeated(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ApiError) as caught:
        access(entry()).identify(headers)
    error = caught.value
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert (b"www-authenticate", b"Bearer") in error.headers()
    assert KEY.encode() not in error.body()


def test_the_hash_of_nothing_lets_nobody_in() -> None:
    """What a script writes whose variable was empty."""
    for headers in (bearer(""), [(b"x-api-key", b"")], []):
        assert refusal(access(entry("")), headers) == (401, "invalid_api_key")


def test_without_keys_configured_everybody_may_do_everything() -> None:
    open_to_all = Access(Clock(), required=False)
    assert open_to_all.identify(bearer("whatever")) is ANONYMOUS
    assert ANONYMOUS.may_use("anything")
    assert entered(open_to_all, ANONYMOUS) is None


def test_keys_that_were_never_read_open_nothing() -> None:
    unread = Access(Clock(), required=True)
    assert refusal(unread, bearer()) == (503, "keys_unreadable")


def test_a_key_that_is_taken_out_is_refused_from_then_on() -> None:
    of = access(entry())
    of.replace(read_keys(json.dumps([entry(OTHER, name="bob")])))
    assert refusal(of, bearer()) == (401, "invalid_api_key")
    assert of.identify(bearer(OTHER)).name == "bob"


def test_a_key_may_use_its_models_only() -> None:
    caller = access(entry(models=["mistral"])).identify(bearer())
    caller.require("mistral")
    with pytest.raises(ApiError) as caught:
        caller.require("coder")
    assert (caught.value.status, caught.value.code) == (403, "model_not_allowed")
    assert access(entry()).identify(bearer()).may_use("coder")
    assert not access(entry(models=[])).identify(bearer()).may_use("coder")


def test_a_keys_priority_is_the_one_of_its_requests() -> None:
    assert access(entry(priority="low")).identify(bearer()).usual_priority is Priority.LOW
    assert access(entry()).identify(bearer()).priority is Priority.NORMAL


@pytest.mark.parametrize("fields", [{"maxInFlight": 1}, {"requestsPerMinute": 1}])
def test_what_is_over_a_limit_is_429_and_says_when_to_come_again(fields: dict[str, Any]) -> None:
    of = access(entry(**fields))
    caller = of.identify(bearer())
    with of.entered(caller), pytest.raises(ApiError) as caught, of.entered(caller):
        pass
    assert caught.value.status == 429
    assert dict(caught.value.headers())[b"retry-after"] in (b"5", b"60")


def test_no_more_requests_run_at_once_than_a_key_may_have() -> None:
    of = access(entry(maxInFlight=2), entry(OTHER, name="bob", maxInFlight=1))
    alice, bob = of.identify(bearer()), of.identify(bearer(OTHER))
    with of.entered(alice), of.entered(alice):
        assert entered(of, alice) == ("too_many_in_flight", 5)
        assert entered(of, bob) is None
    assert entered(of, alice) is None


def test_a_request_that_fails_is_in_flight_no_more() -> None:
    of = access(entry(maxInFlight=1))
    caller = of.identify(bearer())
    with pytest.raises(ZeroDivisionError), of.entered(caller):
        raise ZeroDivisionError
    assert entered(of, caller) is None


def test_requests_of_a_minute_are_counted_and_there_is_room_again_when_it_is_over() -> None:
    clock = Clock()
    of = access(entry(requestsPerMinute=2), clock=clock)
    caller = of.identify(bearer())
    assert entered(of, caller) is None
    clock.now += 20
    assert entered(of, caller) is None
    clock.now += 10
    assert entered(of, caller) == ("rate_limit_exceeded", 30)
    clock.now += 30
    assert entered(of, caller) is None
    assert entered(of, caller) == ("rate_limit_exceeded", 20)


def test_what_is_refused_for_what_runs_does_not_count_as_a_request() -> None:
    clock = Clock()
    of = access(entry(requestsPerMinute=2, maxInFlight=1), clock=clock)
    caller = of.identify(bearer())
    with of.entered(caller):
        for _ in range(5):
            assert entered(of, caller) == ("too_many_in_flight", 5)
    assert entered(of, caller) is None


def test_reading_the_keys_again_forgives_nothing() -> None:
    of = access(entry(requestsPerMinute=1, maxInFlight=1))
    caller = of.identify(bearer())
    with of.entered(caller):
        of.replace(read_keys(json.dumps([entry(requestsPerMinute=1, maxInFlight=1)])))
        assert entered(of, of.identify(bearer())) == ("too_many_in_flight", 5)
    assert entered(of, of.identify(bearer())) == ("rate_limit_exceeded", 60)


@given(
    st.lists(
        st.tuples(st.integers(0, 320) | st.sampled_from([0, 240, 480]), st.integers(1, 5)),
        max_size=60,
    )
)
def test_no_minute_ever_has_more_requests_than_the_limit(
    arrivals: list[tuple[float, int]],
) -> None:
    """Also where the limit changes; and a caller that waits as told is let in."""
    rate, now = MinuteRate(), 0.0
    admitted: list[float] = []
    for eighths, limit in arrivals:
        now += eighths / 8  # exact in binary, and so is all that is made of it
        wait = rate.seconds_until_admitted(limit, now)
        recent = [time for time in admitted if time > now - WINDOW_SECONDS]
        assert (wait == 0) == (len(recent) < limit)
        if wait > 0:
            assert wait <= WINDOW_SECONDS
            now += wait
            assert rate.seconds_until_admitted(limit, now) == 0
            recent = [time for time in admitted if time > now - WINDOW_SECONDS]
        admitted.append(now)
        assert len(recent) < limit


BROKEN = {
    "empty": "",
    "no list": "alice: x",
    "a scalar": "alice",
    "not YAML": "- {name: [",
    "a tag": "- !!python/object/apply:os.system [ls]",
    "deep": "[" * 2_000,
    "no hash": json.dumps([{"name": "alice"}]),
    "the key itself": json.dumps([entry() | {"sha256": "ms-this-is-secret"}]),
    "upper case": json.dumps([entry() | {"sha256": "A" * 64}]),
    "a field too much": json.dumps([entry(model=["mistral"])]),
    "no name": json.dumps([entry(name="")]),
    "a name that is none": json.dumps([entry(name="Alice Secret")]),
    "a name of lines": json.dumps([entry(name="a\nb")]),
    "priority unknown": json.dumps([entry(priority="urgent")]),
    "no request at all": json.dumps([entry(requestsPerMinute=0)]),
    "in flight negative": json.dumps([entry(maxInFlight=-1)]),
    "models a string": json.dumps([entry(models="mistral")]),
    "the same name twice": json.dumps([entry(), entry(OTHER)]),
    "the same key twice": json.dumps([entry(), entry(name="bob")]),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_not_exactly_a_list_of_keys_is_refused_without_telling_it(
    text: str,
) -> None:
    with pytest.raises(KeysError) as caught:
        read_keys(text)
    assert "ecret" not in str(caught.value)
    assert entry()["sha256"] not in str(caught.value)


def test_yaml_and_json_are_read_and_no_keys_at_all_are_valid() -> None:
    assert len(read_keys(yaml.safe_dump([entry(models=["mistral"])]))) == 1
    assert len(read_keys("[]")) == 0


def test_the_command_makes_a_key_whose_entry_lets_it_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["alice", "--models", "mistral,coder", "--priority", "high", "--max-in-flight", "3"]
    assert key_command.main([*arguments, "--requests-per-minute", "60"]) == 0
    printed = capsys.readouterr()
    key = printed.err.splitlines()[0]
    assert key not in printed.out
    of = Access(Clock(), required=True)
    of.replace(read_keys(printed.out))
    assert of.identify(bearer(key)) == Caller(
        "alice", frozenset({"mistral", "coder"}), Priority.HIGH, Priority.HIGH, 3, 60
    )


def test_the_command_prints_entries_that_can_be_appended_to_one_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    key_command.main(["alice"])
    key_command.main(["bob"])
    assert len(read_keys(capsys.readouterr().out)) == 2


@pytest.mark.parametrize(
    "arguments", [["Alice"], ["alice", "--max-in-flight", "0"], ["alice", "--models", ","]]
)
def test_the_command_makes_no_key_that_the_gateway_would_not_read(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert key_command.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "ms-" not in printed.err


@given(st.binary(max_size=600))
def test_no_made_up_key_is_ever_valid(presented: bytes) -> None:
    keys = read_keys(json.dumps([entry(secrets.token_hex())]))
    assert keys.find(presented) is None
