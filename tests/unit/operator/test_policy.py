"""Which model should be on the GPU: tables, and what holds for any facts."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_api.names import Reason
from modelserving_api.priority import Priority
from modelserving_api.spec import Idle, IdleAction, Swap
from modelserving_api.status import SwapCost
from modelserving_operator.contention import LEAST_TURN, RELEASE_LIMIT
from modelserving_operator.costs import Costs
from modelserving_operator.observation import EngineActivity, ModelDemand
from modelserving_operator.policy import Cause, Facts, Stay, SwapTo, decide
from tests.unit.operator.world import START

MODELS = ["mistral", "coder", "llava"]
IDLE = EngineActivity(running=0, waiting=0, finished=5)
BUSY = EngineActivity(running=2, waiting=0, finished=5)
QUEUEING = EngineActivity(running=2, waiting=7, finished=5)


def ago(seconds: float) -> datetime:
    return START - timedelta(seconds=seconds)


def wants(
    model: str, seconds_ago: float = 1, waiting: int = 1, priority: Priority = Priority.NORMAL
) -> ModelDemand:
    return ModelDemand(model, waiting, ago(seconds_ago), priority)


def measured(seconds: float = 9, drain: float = 4, models: Sequence[str] = MODELS) -> Costs:
    """Return costs as they are known after many equal swaps: no deviation, drains times 1.25."""
    pairs = {
        (leaving, target): SwapCost(
            from_model=leaving,
            to_model=target,
            seconds=seconds,
            deviation_seconds=0,
            drain_seconds=drain,
        )
        for leaving, target in itertools.permutations(models, 2)
    }
    return Costs(pairs)


def facts(**fields: object) -> Facts:
    """Return facts: mistral has been active and idle for long, a swap takes 9 s, a drain 5 s.

    With a drain budget of 60 s a busy model gives way 50 s after another one's first request: 10 s
    for the swap and its handover remain then, and the whole budget.
    """
    defaults: dict[str, object] = {
        "now": START,
        "swap": Swap(min_residency_seconds=30, max_wait_seconds=120),
        "active": "mistral",
        "active_since": ago(1000),
        "activity": IDLE,
        "idle_since": ago(500),
        "costs": measured(),
    }
    return Facts(**{**defaults, **fields})  # type: ignore[arg-type]


def busy(**fields: object) -> Facts:
    return facts(**{"activity": BUSY, "idle_since": None, **fields})


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
            busy(demand=(wants("coder", 50.1),)),
            "coder",
            Reason.REQUESTED,
            id="a busy engine gives way early enough for its drain and the swap",
        ),
        pytest.param(
            facts(active_since=ago(15), idle_since=ago(9), demand=(wants("coder"),)),
            "coder",
            Reason.REQUESTED,
            id="within residency an engine that was quiet for a swap's cost gives way",
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
        pytest.param(busy(demand=(wants("coder", 49.9),)), id="busy, and the others have time"),
        pytest.param(
            facts(active_since=ago(29), idle_since=ago(8.9), demand=(wants("coder"),)),
            id="within residency a gap between two requests is no idleness",
        ),
        pytest.param(
            facts(
                swap=Swap(idle=Idle(action=IdleAction.SCALE_TO_ZERO, after_seconds=60)),
                demand=(wants("mistral", 9),),
            ),
            id="what is wanted is not idle, however quiet its engine is",
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


INTO_THE_TURN = 5
"""Seconds since mistral was loaded, in the cases below: in the midst of its residency of 30 s."""


@pytest.mark.parametrize(
    ("given_facts", "target", "cause"),
    [
        pytest.param(
            busy(demand=(wants("coder", 105.1),), active_since=ago(INTO_THE_TURN)),
            "coder",
            Cause.MAXIMUM_WAIT,
            id="the bound goes before a residency",
        ),
        pytest.param(
            busy(demand=(wants("coder", 60),), active_since=ago(INTO_THE_TURN)),
            None,
            Cause.SERVING_ON,
            id="a residency goes before the certainty that the bound is kept",
        ),
        pytest.param(
            # 10 s for the swap and 20 s of drain are left.
            busy(
                swap=Swap(drain_timeout_seconds=20),
                demand=(wants("coder", 90.1),),
                active_since=ago(INTO_THE_TURN),
            ),
            "coder",
            Cause.MAXIMUM_WAIT,
            id="unless that can be made certain for all",
        ),
        pytest.param(
            busy(demand=(wants("coder", 83), wants("llava", 82)), active_since=ago(INTO_THE_TURN)),
            None,
            Cause.SERVING_ON,
            id="two wait, and for both there is time",
        ),
        pytest.param(
            # llava is ready after 5 + 10 + 6 + 10 seconds, coder after 15.
            busy(
                demand=(wants("coder", 90), wants("llava", 89.1)),
                active_since=ago(INTO_THE_TURN),
            ),
            "coder",
            Cause.MAXIMUM_WAIT,
            id="the first goes early for the sake of the second",
        ),
        pytest.param(
            facts(active_since=ago(12), idle_since=ago(5), demand=(wants("coder"), wants("llava"))),
            "coder",
            Cause.FELL_IDLE,
            id="two who wait lose patience in half of the time",
        ),
        pytest.param(
            facts(unasked=True, active_since=ago(2), idle_since=ago(1), demand=(wants("coder"),)),
            "coder",
            Cause.FELL_IDLE,
            id="what nobody had asked for has no residency",
        ),
        pytest.param(
            busy(demand=(wants("coder", 1, priority=Priority.HIGH),)),
            "coder",
            Cause.PRIORITY,
            id="a high priority ends the turn of a busy model",
        ),
        pytest.param(
            busy(
                demand=(wants("coder", 20, priority=Priority.HIGH),),
                active_since=ago(INTO_THE_TURN),
            ),
            None,
            Cause.SERVING_ON,
            id="but not within its residency",
        ),
        pytest.param(
            facts(demand=(wants("coder", 9), wants("llava", 1, priority=Priority.HIGH))),
            "llava",
            Cause.FELL_IDLE,
            id="high goes before normal of half a minute ago",
        ),
        pytest.param(
            facts(demand=(wants("coder", 31), wants("llava", 0.5, priority=Priority.HIGH))),
            "coder",
            Cause.FELL_IDLE,
            id="but not before what has waited longer",
        ),
        pytest.param(
            facts(demand=(wants("coder", 80, priority=Priority.LOW), wants("llava", 1))),
            "llava",
            Cause.FELL_IDLE,
            id="normal goes before low of a minute and a half ago",
        ),
        pytest.param(
            # Ready after 10 + 6 + 10 seconds if llava went first.
            facts(demand=(wants("coder", 94.1, priority=Priority.LOW), wants("llava", 1))),
            "coder",
            Cause.FELL_IDLE,
            id="but the bound holds for low as well",
        ),
        pytest.param(
            # Ready after 10 + 21 + 10 seconds if llava went first, and 20 s of drain.
            facts(
                swap=Swap(drain_timeout_seconds=20),
                demand=(wants("coder", 70, priority=Priority.LOW), wants("llava", 1)),
            ),
            "coder",
            Cause.FELL_IDLE,
            id="and where it is certain for all it stays so",
        ),
        pytest.param(
            facts(
                swap=Swap(max_wait_seconds=60),
                demand=(wants("coder", 99), wants("llava", 80, priority=Priority.HIGH)),
            ),
            "llava",
            Cause.FELL_IDLE,
            id="where the bound is lost the due dates alone decide",
        ),
        pytest.param(
            busy(
                swap=Swap(max_wait_seconds=5),
                active_since=ago(0.9),
                demand=(wants("coder", 99),),
            ),
            None,
            Cause.SERVING_ON,
            id="no wait takes a model's turn before its requests are in",
        ),
        pytest.param(
            busy(swap=Swap(max_wait_seconds=5), active_since=ago(1), demand=(wants("coder", 99),)),
            "coder",
            Cause.MAXIMUM_WAIT,
            id="a bound that cannot be kept leaves each a gated turn",
        ),
        pytest.param(
            busy(
                swap=Swap(max_wait_seconds=5),
                active_since=ago(9.9),
                demand=(wants("mistral", 50), wants("coder", 99)),
            ),
            None,
            Cause.SERVING_ON,
            id="a turn waits for what gateways still hold for it",
        ),
        pytest.param(
            busy(
                swap=Swap(max_wait_seconds=5),
                active_since=ago(10),
                demand=(wants("mistral", 50), wants("coder", 99)),
            ),
            "coder",
            Cause.MAXIMUM_WAIT,
            id="but not for ever: a gateway may not reach the engine",
        ),
        pytest.param(
            busy(
                swap=Swap(max_wait_seconds=5),
                activity=QUEUEING,
                active_since=ago(26.9),
                demand=(wants("coder", 99),),
            ),
            None,
            Cause.SERVING_ON,
            id="an engine that queues works that off where the bound is lost anyway",
        ),
        pytest.param(
            busy(
                swap=Swap(max_wait_seconds=5),
                activity=QUEUEING,
                active_since=ago(27),
                demand=(wants("coder", 99),),
            ),
            "coder",
            Cause.MAXIMUM_WAIT,
            id="for three times a swap's cost at most",
        ),
        pytest.param(
            busy(
                activity=QUEUEING,
                active_since=ago(INTO_THE_TURN),
                demand=(wants("coder", 105.1),),
            ),
            "coder",
            Cause.MAXIMUM_WAIT,
            id="and not at all where the bound can be kept",
        ),
    ],
)
def test_the_turn_of_a_model_ends(given_facts: Facts, target: str | None, cause: Cause) -> None:
    decision = decide(given_facts)

    assert decision.cause is cause
    assert (decision.model if isinstance(decision, SwapTo) else None) == target


@pytest.mark.parametrize(
    ("given_facts", "seconds"),
    [
        pytest.param(
            busy(demand=(wants("coder"),)), 0.5, id="a busy engine may fall idle any time"
        ),
        pytest.param(
            facts(active_since=ago(5), demand=(wants("mistral"), wants("coder"))),
            0.5,
            id="and so may one that is to get what gateways hold",
        ),
        pytest.param(
            facts(active_since=ago(5), idle_since=ago(3), demand=(wants("coder"),)),
            6,
            id="an idle one is asked again when patience ends: nine seconds from its last work",
        ),
        pytest.param(
            busy(demand=(wants("coder", 49.9),)), 0.1, id="no look comes later than the last moment"
        ),
    ],
)
def test_it_is_looked_again_when_something_can_have_changed(
    given_facts: Facts, seconds: float
) -> None:
    decision = decide(given_facts)

    assert isinstance(decision, Stay)
    assert decision.look_again_seconds == pytest.approx(seconds)


def test_a_bound_that_cannot_be_kept_is_told_with_its_reason() -> None:
    decision = decide(
        busy(
            swap=Swap(max_wait_seconds=20),
            active_since=ago(0.5),
            demand=(wants("coder", 9), wants("llava", 8)),
        )
    )

    assert "maxWaitSeconds=20 cannot be kept" in decision.message
    assert "mistral, coder, llava takes about 48 s" in decision.message
    assert set(decision.late) == {"coder", "llava"}
    assert decision.late["llava"] == pytest.approx(8 + 0.5 + 5 + 10 + 6 + 10 - 20, abs=0.01)


def test_a_bound_that_was_lost_by_something_else_is_told_so() -> None:
    decision = decide(busy(demand=(wants("coder", 300),)))

    assert isinstance(decision, SwapTo)
    assert "maxWaitSeconds=120 will be missed for coder" in decision.message


def test_a_bound_that_is_kept_is_not_talked_about() -> None:
    decision = decide(busy(demand=(wants("coder", 50.1),)))

    assert not decision.late
    assert "cannot" not in decision.message
    assert "missed" not in decision.message


def test_nothing_that_varies_by_the_second_is_in_the_message_of_a_stay() -> None:
    """Otherwise the status would be written at each look."""
    waiting = (wants("coder", 10), wants("llava", 5))
    messages = {
        decide(
            replace(
                busy(demand=waiting, active_since=ago(3)),
                now=START + timedelta(seconds=second),
                activity=EngineActivity(second % 3, second % 2, second),
                idle_since=START + timedelta(seconds=second) if second % 3 == 0 else None,
            )
        ).message
        for second in range(20)
    }

    assert len(messages) == 1


def busy_engine(_: datetime) -> dict[str, Any]:
    return {"activity": QUEUEING, "idle_since": None}


def idle_engine(since: datetime) -> dict[str, Any]:
    return {"activity": IDLE, "idle_since": since}


def silent_engine(_: datetime) -> dict[str, Any]:
    return {"activity": None, "idle_since": None}


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
        **draw(st.sampled_from([busy_engine, idle_engine, silent_engine]))(draw(moment)),
        unasked=draw(st.booleans()),
        pin=draw(maybe_model),
        default=draw(maybe_model),
        last_working=draw(maybe_model),
        at_rest=draw(st.booleans()),
        demand=tuple(
            ModelDemand(
                name, draw(st.integers(1, 9)), draw(moment), draw(st.sampled_from(Priority))
            )
            for name in draw(st.sets(model))
        ),
        blocked={
            name: draw(st.none() | st.floats(-600, -1).map(ago)) for name in draw(st.sets(model))
        },
        failed=draw(st.frozensets(model)),
        proven=tuple(draw(st.lists(model, unique=True))),
        costs=draw(st.just(Costs()) | st.builds(measured, st.floats(0.1, 60), st.floats(0.6, 100))),
    )


@given(any_facts())
def test_a_swap_never_goes_to_the_active_or_to_a_blocked_model(given_facts: Facts) -> None:
    decision = decide(given_facts)

    if isinstance(decision, SwapTo):
        assert decision.model != given_facts.active
        assert decision.model not in given_facts.blocked


@given(any_facts())
def test_nobody_is_left_waiting_at_the_bound_once_the_active_model_had_its_turn(
    given_facts: Facts,
) -> None:
    limit = timedelta(seconds=given_facts.swap.max_wait_seconds)
    overdue = [
        each
        for each in given_facts.demand
        if START - each.since >= limit
        and each.model != given_facts.active
        and each.model not in given_facts.blocked
    ]
    since = given_facts.active_since
    held = any(each.model == given_facts.active for each in given_facts.demand)
    queueing = given_facts.activity is not None and given_facts.activity.waiting > 0
    turn = max(
        RELEASE_LIMIT if held else LEAST_TURN,
        timedelta(seconds=3 * 60) if queueing else LEAST_TURN,
    )
    had_its_turn = since is None or START - since >= turn
    if overdue and given_facts.pin is None and had_its_turn:
        assert isinstance(decide(given_facts), SwapTo)


@given(any_facts())
def test_no_model_is_swapped_out_before_its_requests_are_in(given_facts: Facts) -> None:
    since = given_facts.active_since
    just_loaded = since is not None and START - since < LEAST_TURN
    decision = decide(given_facts)
    busy_now = given_facts.activity is not None and given_facts.activity.busy
    if given_facts.active is not None and just_loaded and busy_now:
        assert not isinstance(decision, SwapTo) or decision.cause is Cause.PINNED


@given(any_facts())
def test_deciding_twice_gives_the_same(given_facts: Facts) -> None:
    assert decide(given_facts) == decide(given_facts)


@given(any_facts(), st.floats(0, 1))
def test_no_look_again_oversleeps(given_facts: Facts, share: float) -> None:
    """If nothing happens meanwhile, nothing is due before the next look."""
    decision = decide(given_facts)
    if isinstance(decision, Stay):
        pause = decision.look_again_seconds
        slept = share * (3600 if pause is None else max(pause - 0.05, 0))
        later = replace(given_facts, now=START + timedelta(seconds=slept))
        retries = [retry for retry in given_facts.blocked.values() if retry is not None]
        if not any(START < retry <= later.now for retry in retries):
            assert isinstance(decide(later), Stay)


@given(any_facts())
def test_looking_again_and_again_comes_to_an_end_without_spinning(given_facts: Facts) -> None:
    """While somebody waits for what can be loaded: at most two looks a second, and then a swap."""
    waiting = [each for each in given_facts.demand if each.model != given_facts.active]
    if not waiting or given_facts.pin is not None or given_facts.blocked:
        return
    later, looks = given_facts, 0
    while isinstance(decision := decide(later), Stay):
        assert decision.look_again_seconds is not None
        later = replace(later, now=later.now + timedelta(seconds=decision.look_again_seconds))
        looks += 1
        assert looks <= 3 + 2 * (later.now - START).total_seconds()
        assert later.now - START < timedelta(seconds=1500)


@given(any_facts())
def test_a_stay_looks_again_in_the_future_and_says_why(given_facts: Facts) -> None:
    decision = decide(given_facts)

    assert decision.message
    if isinstance(decision, Stay) and decision.look_again_seconds is not None:
        assert decision.look_again_seconds > 0


def test_what_failed_for_good_is_never_tried_however_much_it_is_wanted() -> None:
    decision = decide(
        facts(
            active=None,
            pin="coder",
            default="coder",
            demand=(wants("coder", 50),),
            blocked={"coder": None},
        )
    )

    assert isinstance(decision, Stay)
    assert (decision.cause, decision.dark) == (Cause.ALL_FAILED, Reason.LOAD_FAILED)
    assert "before its spec changes" in decision.message
    assert decision.look_again_seconds is None


def test_of_all_that_failed_the_first_that_may_be_tried_is_told() -> None:
    blocked = {"coder": None, "mistral": ago(-60)}
    decision = decide(facts(active=None, pin="coder", default="mistral", blocked=blocked))

    assert isinstance(decision, Stay)
    assert "coder, mistral" in decision.message
    assert decision.look_again_seconds == pytest.approx(60)


@pytest.mark.parametrize("ought", ["pin", "default", "last_working"])
def test_where_what_ought_to_serve_cannot_the_latest_that_worked_stands_in(ought: str) -> None:
    decision = decide(
        facts(
            active=None,
            blocked={"coder": ago(-60)},
            proven=("coder", "llava", "mistral"),
            **{ought: "coder"},
        )
    )

    assert isinstance(decision, SwapTo)
    assert (decision.model, decision.reason) == ("llava", Reason.ROLLED_BACK)


def test_nothing_stands_in_for_what_a_request_alone_wanted() -> None:
    decision = decide(
        facts(
            active=None,
            demand=(wants("coder", 5),),
            blocked={"coder": ago(-60)},
            proven=("llava",),
        )
    )

    assert isinstance(decision, Stay)
