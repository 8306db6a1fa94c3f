"""Which model should be on the GPU: tables, and what holds for any facts."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_api.names import Reason
from modelserving_api.spec import Idle, IdleAction, Swap
from modelserving_operator.observation import ModelDemand
from modelserving_operator.policy import Facts, Stay, SwapTo, decide
from tests.unit.operator.world import START

MODELS = ["mistral", "coder", "llava"]


def ago(seconds: float) -> datetime:
    return START - timedelta(seconds=seconds)


def wants(model: str, seconds_ago: float = 1, waiting: int = 1) -> ModelDemand:
    return ModelDemand(model, waiting, ago(seconds_ago))


def facts(**fields: object) -> Facts:
    defaults: dict[str, object] = {
        "now": START,
        "swap": Swap(min_residency_seconds=30, max_wait_seconds=120),
        "active": "mistral",
        "active_since": ago(1000),
        "idle_since": ago(500),
    }
    return Facts(**{**defaults, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given_facts", "target", "reason"),
    [
        pytest.param(
            facts(demand=(wants("coder"),)), "coder", Reason.REQUESTED, id="idle engine gives way"
        ),
        pytest.param(
            facts(demand=(wants("coder", 5), wants("llava", 9))),
            "llava",
            Reason.REQUESTED,
            id="oldest waiting wins",
        ),
        pytest.param(
            facts(pin="llava", idle_since=None, demand=(wants("coder", 999),)),
            "llava",
            Reason.PINNED,
            id="a pin decides alone",
        ),
        pytest.param(
            facts(idle_since=None, demand=(wants("coder", 121),)),
            "coder",
            Reason.REQUESTED,
            id="a busy engine gives way at maxWaitSeconds",
        ),
        pytest.param(
            facts(active_since=ago(5), idle_since=ago(3), demand=(wants("coder"),)),
            "coder",
            Reason.REQUESTED,
            id="within residency a quiet engine gives way",
        ),
        pytest.param(
            facts(active_since=ago(31), idle_since=START, demand=(wants("coder"),)),
            "coder",
            Reason.REQUESTED,
            id="after residency an idle engine gives way at once",
        ),
        pytest.param(
            facts(
                swap=Swap(min_residency_seconds=0),
                active_since=ago(0.2),
                idle_since=ago(0.1),
                demand=(wants("coder"),),
            ),
            "coder",
            Reason.REQUESTED,
            id="without a residency an idle engine gives way at once",
        ),
        pytest.param(
            facts(active=None, default="mistral", last_working="llava"),
            "llava",
            Reason.ROLLED_BACK,
            id="the last working model comes back",
        ),
        pytest.param(
            facts(active=None, default="mistral", last_working="llava", demand=(wants("coder"),)),
            "coder",
            Reason.REQUESTED,
            id="demand comes before rolling back",
        ),
        pytest.param(
            facts(active=None, default="mistral"), "mistral", Reason.DEFAULT_MODEL, id="default"
        ),
        pytest.param(
            facts(
                active=None,
                default="mistral",
                pin="coder",
                blocked={"coder": ago(-60)},
            ),
            "mistral",
            Reason.DEFAULT_MODEL,
            id="a pin that failed leaves the GPU to others",
        ),
        pytest.param(
            facts(demand=(wants("coder", 50), wants("llava")), blocked={"coder": ago(-60)}),
            "llava",
            Reason.REQUESTED,
            id="a model that just failed is passed over",
        ),
    ],
)
def test_these_facts_swap(given_facts: Facts, target: str, reason: Reason) -> None:
    decision = decide(given_facts)

    assert isinstance(decision, SwapTo)
    assert (decision.model, decision.reason) == (target, reason)
    assert target in decision.message


@pytest.mark.parametrize(
    "given_facts",
    [
        pytest.param(facts(), id="nobody waits"),
        pytest.param(facts(demand=(wants("mistral"),)), id="the active model is wanted"),
        pytest.param(facts(idle_since=None, demand=(wants("coder", 119),)), id="busy"),
        pytest.param(
            facts(active_since=ago(29), idle_since=None, demand=(wants("coder", 500),)),
            id="even the longest wait leaves a loaded model its turn",
        ),
        pytest.param(
            facts(active_since=ago(29), idle_since=ago(0.5), demand=(wants("coder"),)),
            id="within residency a gap between two requests is no idleness",
        ),
        pytest.param(
            facts(
                swap=Swap(min_residency_seconds=0),
                active_since=ago(0.2),
                idle_since=ago(0.1),
                demand=(wants("mistral", 9), wants("coder")),
            ),
            id="what was held for the active model has not arrived yet",
        ),
        pytest.param(facts(pin="mistral", demand=(wants("coder", 999),)), id="pinned"),
        pytest.param(facts(active=None, default="mistral", at_rest=True), id="freed on purpose"),
        pytest.param(
            facts(active=None, default="mistral", blocked={"mistral": ago(-60)}), id="all failed"
        ),
        pytest.param(
            facts(swap=Swap(idle=Idle(action=IdleAction.RETURN_TO_DEFAULT)), default="mistral"),
            id="already at the default",
        ),
    ],
)
def test_these_facts_stay(given_facts: Facts) -> None:
    decision = decide(given_facts)

    assert isinstance(decision, Stay)
    assert decision.message


@st.composite
def any_facts(draw: st.DrawFn) -> Facts:
    model = st.sampled_from(MODELS)
    maybe_model = st.none() | model
    moment = st.floats(0, 1000).map(ago)
    return Facts(
        now=START,
        swap=Swap(
            min_residency_seconds=draw(st.integers(0, 300)),
            max_wait_seconds=draw(st.integers(1, 600)),
            idle=Idle(
                action=draw(st.sampled_from(IdleAction)), after_seconds=draw(st.integers(1, 900))
            ),
        ),
        active=draw(maybe_model),
        active_since=draw(st.none() | moment),
        idle_since=draw(st.none() | moment),
        pin=draw(maybe_model),
        default=draw(maybe_model),
        last_working=draw(maybe_model),
        at_rest=draw(st.booleans()),
        demand=tuple(
            ModelDemand(name, draw(st.integers(1, 9)), draw(moment))
            for name in draw(st.sets(model))
        ),
        blocked={name: ago(-draw(st.floats(1, 600))) for name in draw(st.sets(model))},
    )


@given(any_facts())
def test_a_swap_never_goes_to_the_active_or_to_a_blocked_model(given_facts: Facts) -> None:
    decision = decide(given_facts)

    if isinstance(decision, SwapTo):
        assert decision.model != given_facts.active
        assert decision.model not in given_facts.blocked


@given(any_facts())
def test_nobody_waits_beyond_the_maximum_and_a_turn_unless_pinned(given_facts: Facts) -> None:
    limit = timedelta(seconds=given_facts.swap.max_wait_seconds)
    overdue = [
        each
        for each in given_facts.demand
        if START - each.since >= limit
        and each.model != given_facts.active
        and each.model not in given_facts.blocked
    ]
    residency = timedelta(seconds=given_facts.swap.min_residency_seconds)
    had_its_turn = given_facts.active_since is None or START - given_facts.active_since >= residency
    if overdue and given_facts.pin is None and had_its_turn:
        assert isinstance(decide(given_facts), SwapTo)


@given(any_facts())
def test_a_stay_looks_again_in_the_future_and_says_why(given_facts: Facts) -> None:
    decision = decide(given_facts)

    assert decision.message
    if isinstance(decision, Stay) and decision.look_again_seconds is not None:
        assert decision.look_again_seconds > 0
