"""Whatever happens in whatever order: R1 holds, and things come to rest where they should."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from modelserving_api.names import ConditionType
from modelserving_api.status import ConditionStatus, ModelState
from tests.unit.operator.world import World, spec

MODELS = ("mistral", "coder", "llava")


class Operating(RuleBasedStateMachine):
    """Demand, pins, deaths, hand edits and restarts, with watches that lag."""

    @initialize(lag=st.integers(0, 6), default=st.sampled_from([*MODELS, None]))
    def begin(self, lag: int, default: str | None) -> None:
        fields = {"defaultModel": default} if default else {}
        self.changes = 0
        self.world = World(spec(swap={"drainTimeoutSeconds": 10}, **fields), lag=lag)

    @rule(seconds=st.floats(0.5, 20))
    def time_passes(self, seconds: float) -> None:
        self.world.run(seconds=seconds)

    @rule()
    def one_turn(self) -> None:
        self.world.turn()

    @rule(gateway=st.sampled_from("ab"), model=st.sampled_from(MODELS), count=st.integers(0, 5))
    def ask(self, gateway: str, model: str, count: int) -> None:
        self.world.demand(gateway, **{model: count})

    @rule(gateway=st.sampled_from("ab"))
    def withdraw(self, gateway: str) -> None:
        self.world.demand(gateway)

    @rule(model=st.sampled_from([*MODELS, None]))
    def pin(self, model: str | None) -> None:
        self.world.raw_spec.pop("activeModel", None)
        if model is not None:
            self.world.raw_spec["activeModel"] = model

    @rule(model=st.sampled_from(MODELS))
    def break_model(self, model: str) -> None:
        self.world.broken.add(model)

    @rule(model=st.sampled_from(MODELS), kind=st.sampled_from(("unplaced", "weightless", "wrong")))
    def take_something_from_a_model(self, model: str, kind: str) -> None:
        getattr(self.world, kind).add(model)

    @rule(model=st.sampled_from(MODELS), times=st.sampled_from((1, 2, 99)))
    def let_a_model_want_more_memory_than_there_is(self, model: str, times: int) -> None:
        self.world.greedy[model] = times

    @rule()
    def mend_models(self) -> None:
        self._mend()

    def _mend(self) -> None:
        world = self.world
        for faults in (world.broken, world.unplaced, world.weightless, world.wrong, world.held):
            faults.clear()
        world.greedy.clear()

    @rule(model=st.sampled_from(MODELS))
    def change_the_spec_of_a_model(self, model: str) -> None:
        self.changes += 1
        args = {"engine": {"args": ["--seed", str(self.changes)]}}
        models = [
            {**each, **args} if each["name"] == model else each
            for each in self.world.raw_spec["models"]
        ]
        self.world.raw_spec = {**self.world.raw_spec, "models": models}

    @rule()
    def evict(self) -> None:
        self.world.evict()

    @rule()
    def delete_pods(self) -> None:
        self.world.delete_pods()

    @rule()
    def hold_ending_pods(self) -> None:
        self.world.held |= {pod.name for pod in self.world.pods.values() if pod.terminating}

    @rule(mute=st.booleans())
    def stop_the_kubelet(self, mute: bool) -> None:
        self.world.silent_since = self.world.silent_since or self.world.now
        self.world.mute = mute

    @rule()
    def start_the_kubelet(self) -> None:
        self.world.silent_since, self.world.mute = None, False

    @rule(running=st.integers(0, 2))
    def work(self, running: int) -> None:
        self.world.running = running

    @rule()
    def kill_operator(self) -> None:
        self.world.forget()

    @rule()
    def kill_engine(self) -> None:
        for uid, pod in self.world.pods.items():
            self.world.pods[uid] = replace(
                pod, terminating=True, ready=False, containers_ready=False
            )
            self.world.ends[uid] = self.world.now + timedelta(seconds=3)

    @invariant()
    def the_status_names_no_model_that_is_not_up(self) -> None:
        active = self.world.status.active_model
        if active is not None:
            assert self.world.status.model(active).state is ModelState.READY
            assert self.world.status.endpoint is not None

    @invariant()
    def nothing_is_dark_without_a_reason(self) -> None:
        if self.world.status.active_model is None and self.world.status.observed_generation:
            ready = self.world.status.condition(ConditionType.READY)
            assert ready is not None
            assert ready.status is ConditionStatus.FALSE
            assert ready.reason
            assert ready.message

    def teardown(self) -> None:
        """When the trouble ends, what is wanted serves, and nothing is left of the rest."""
        world = self.world
        self._mend()
        self.start_the_kubelet()
        # What ran out of memory for good is only tried again as something else.
        self.change_the_spec_of_a_model("llava")
        world.running = 0
        world.demand("a")
        world.demand("b")
        world.raw_spec["activeModel"] = "llava"
        world.run(seconds=1500, until=world.active("llava"), tick=1.0)
        up = [name for name, view in world.deployments.items() if view.replicas > 0]
        assert up == ["llava"]


Operating.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=15,
    suppress_health_check=[HealthCheck.too_slow],
)
TestOperating = Operating.TestCase
