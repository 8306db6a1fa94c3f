"""The state machine of a swap, driven through a small world."""

from dataclasses import replace
from datetime import timedelta

import pytest

from modelserving_api.names import ConditionType, Reason
from modelserving_api.status import ConditionStatus, ModelServingStatus, ModelState, SwapOutcome
from modelserving_operator.actions import Delete, Probe, RemoveRequest, ScaleDown, ScaleUp
from tests.unit.operator.world import World, model, spec


def serving_world(**fields: object) -> World:
    """Return a world in which mistral, the default, serves."""
    world = World(spec(defaultModel="mistral", **fields))
    world.run(until=world.active("mistral"))
    return world


def test_the_default_model_is_loaded_when_nobody_asked_for_anything() -> None:
    world = serving_world()

    assert world.status.endpoint == "http://10.0.0.1:8000"
    assert world.deployments["mistral"].replicas == 1


def test_every_model_has_a_deployment_and_a_service_from_the_beginning() -> None:
    world = serving_world()

    assert set(world.deployments) == {"mistral", "coder", "llava"}
    assert set(world.services) == {"mistral", "coder", "llava"}


def test_nothing_is_loaded_without_a_default_a_pin_or_a_request() -> None:
    world = World()

    world.run(seconds=20)

    ready = world.status.condition(ConditionType.READY)
    assert ready is not None
    assert ready.reason == Reason.NO_DEMAND
    assert not any(view.replicas for view in world.deployments.values())


def test_a_request_swaps_to_its_model() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)

    world.run(until=world.active("coder"))

    assert world.status.last_swap is not None
    assert world.status.last_swap.from_model == "mistral"
    assert world.status.last_swap.outcome is SwapOutcome.SUCCEEDED


def test_the_parts_of_a_swap_add_up_to_its_whole() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)
    world.run(until=world.active("coder"))

    swap = world.status.last_swap
    assert swap is not None
    parts = swap.parts.model_dump()
    assert None not in parts.values()
    assert abs(sum(parts.values()) - swap.seconds) < 0.01
    assert swap.parts.stop_seconds is not None
    assert swap.parts.stop_seconds >= 6.5


def test_no_active_model_is_published_before_the_old_one_drains() -> None:
    world = serving_world()
    world.running = 1
    world.demand("gateway-a", coder=1)
    world.raw_spec["activeModel"] = "coder"

    world.run(seconds=10)

    assert world.status.active_model is None
    assert world.status.endpoint is None
    assert world.status.model("mistral").state is ModelState.DRAINING
    assert world.deployments["mistral"].replicas == 1, "a running request must finish"
    world.running = 0
    world.run(until=world.active("coder"))


def test_the_drain_budget_ends_a_drain() -> None:
    world = serving_world(swap={"drainTimeoutSeconds": 20})
    world.running = 1
    world.raw_spec["activeModel"] = "coder"

    world.run(seconds=19)
    assert world.deployments["mistral"].replicas == 1
    world.run(seconds=3)
    assert world.deployments["mistral"].replicas == 0


def test_the_new_engine_waits_until_the_old_pod_is_gone() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)

    world.run(until=lambda world: any(pod.terminating for pod in world.pods.values()))

    assert world.deployments["coder"].replicas == 0
    ready = world.status.condition(ConditionType.READY)
    assert ready is not None
    assert ready.status is ConditionStatus.FALSE


def test_a_failed_pod_that_was_never_removed_does_not_block_a_swap() -> None:
    world = serving_world()
    uid, pod = next(iter(world.pods.items()))
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: world.pods.get(uid, pod).terminating)
    world.pods[uid] = replace(world.pods[uid], phase="Failed")
    world.ends[uid] = world.now + timedelta(hours=1)

    world.run(until=world.active("coder"))


def test_an_engine_that_is_ready_but_cannot_complete_is_not_published() -> None:
    world = serving_world()
    world.wrong.add("coder")
    world.demand("gateway-a", coder=1)

    world.run(until=lambda world: world.status.swaps_failed == 1)

    assert world.status.active_model is None
    assert world.status.model("coder").reason == Reason.PROBE_FAILED


def test_a_failed_load_goes_back_to_the_last_working_model() -> None:
    world = serving_world()
    world.demand("gateway-a", llava=1)
    world.run(until=world.active("llava"))
    world.demand("gateway-a")
    world.broken.add("coder")
    world.demand("gateway-b", coder=1)

    world.run(until=lambda world: world.status.swaps_failed == 1)
    world.demand("gateway-b")
    world.run(until=world.active("llava"))

    coder = world.status.model("coder")
    assert coder.state is ModelState.FAILED
    assert coder.reason == Reason.CRASH_LOOP
    assert coder.message is not None
    assert "an unknown flag" in coder.message
    degraded = world.status.condition(ConditionType.DEGRADED)
    assert degraded is not None
    assert degraded.status is ConditionStatus.TRUE
    assert "coder" in degraded.message
    assert world.status.last_swap is not None
    assert world.status.last_swap.reason == Reason.ROLLED_BACK


def test_a_broken_model_is_not_tried_again_before_its_time_and_then_is() -> None:
    world = serving_world()
    world.broken.add("coder")
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: world.status.swaps_failed == 1)
    failed_at = world.now

    world.run(until=world.active("mistral"))
    world.renew()
    world.run(until=lambda world: world.status.swaps_failed == 2)

    assert world.now - failed_at >= timedelta(seconds=10)
    assert world.status.model("coder").failures == 2


def test_a_broken_model_is_tried_at_once_when_its_spec_changes() -> None:
    world = serving_world()
    world.broken.add("coder")
    world.demand("gateway-a", coder=1)
    for _ in range(3):
        world.run(seconds=200, until=lambda world: world.status.current_swap is None)
        world.renew()
        world.run(seconds=200, until=lambda world: world.status.current_swap is not None)
        world.renew()
    world.run(seconds=200, until=world.active("mistral"))
    world.broken.clear()
    fixed = model("coder", "11Gi", engine={"args": ["--max-model-len", "2048"]})
    world.raw_spec["models"] = [model("mistral"), fixed, model("llava", "20Gi")]
    world.renew()

    world.run(seconds=25, until=world.active("coder"))


def test_a_load_that_hangs_is_ended_by_its_time_out() -> None:
    world = World(
        spec(
            defaultModel="mistral",
            models=[model("mistral"), model("coder", "11Gi", loadTimeoutSeconds=30)],
        )
    )
    world.run(until=world.active("mistral"))
    world.hanging.add("coder")
    world.demand("gateway-a", coder=1)

    world.run(until=lambda world: world.status.swaps_failed == 1)
    world.demand("gateway-a")
    world.run(until=world.active("mistral"))

    assert world.status.model("coder").reason == Reason.LOAD_TIMEOUT


def test_a_pin_wins_over_demand_and_over_a_busy_engine() -> None:
    world = serving_world()
    world.running = 1
    world.demand("gateway-a", coder=5)
    world.raw_spec["activeModel"] = "llava"

    world.run(seconds=120, until=world.active("llava"))
    world.run(seconds=200)

    assert world.status.active_model == "llava", "demand must not undo a pin"


def test_a_pin_set_in_mid_swap_redirects_it() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: world.deployments["coder"].replicas == 1)
    world.raw_spec["activeModel"] = "llava"

    world.run(until=world.active("llava"))

    assert any(each.reason is Reason.SWAP_SUPERSEDED for each in world.told)


def test_a_pin_to_the_draining_model_gives_it_back() -> None:
    world = serving_world()
    world.running = 1
    world.raw_spec["activeModel"] = "coder"
    world.run(seconds=5)
    world.raw_spec["activeModel"] = "mistral"

    world.run(seconds=5, until=world.active("mistral"))

    assert world.deployments["mistral"].replicas == 1
    assert not any(isinstance(action, ScaleDown) for action in world.acted)


def test_a_pinned_model_that_fails_leaves_the_last_one_serving_and_says_so() -> None:
    world = serving_world()
    world.broken.add("coder")
    world.raw_spec["activeModel"] = "coder"

    world.run(until=lambda world: world.status.swaps_failed == 1)
    world.run(until=world.active("mistral"))

    ready = world.status.condition(ConditionType.READY)
    assert ready is not None
    assert ready.reason == Reason.SERVING_FALLBACK


def test_an_engine_that_is_deleted_is_recovered_and_nobody_is_sent_to_it_meanwhile() -> None:
    world = serving_world()
    world.delete_pods()

    world.turn()
    assert world.status.active_model is None
    world.run(until=world.active("mistral"))

    assert world.status.last_swap is not None
    assert world.status.last_swap.reason == Reason.ENGINE_LOST


def test_a_deployment_scaled_up_by_hand_is_put_back() -> None:
    world = serving_world()
    world.deployments["coder"] = replace(world.deployments["coder"], replicas=1)
    world.turn()

    assert world.deployments["coder"].replicas == 0
    assert world.deployments["mistral"].replicas == 1
    assert world.told[-1].reason == Reason.SCALED_BY_HAND


def test_a_deployment_scaled_up_during_a_drain_is_put_back_at_once() -> None:
    world = serving_world()
    world.running = 1
    world.raw_spec["activeModel"] = "coder"
    world.run(until=lambda world: world.status.current_swap is not None)
    world.deployments["llava"] = replace(world.deployments["llava"], replicas=1)
    world.turn()

    assert world.deployments["llava"].replicas == 0
    assert world.deployments["mistral"].replicas == 1, "it finishes what it is running"


def test_edited_objects_of_a_stopped_model_are_put_back_and_told_of() -> None:
    world = serving_world()
    world.edit("coder")
    world.run(seconds=2)

    assert edits(world) == [
        "Deployment l4-coder was edited by hand (strategy); it is put back",
        "Service l4-coder was edited by hand (ports); it is put back",
    ]
    assert "RollingUpdate" not in world.deployments["coder"].ownership
    assert "8000" in world.services["coder"].ownership
    assert world.status.active_model == "mistral"


def test_an_edited_deployment_of_the_active_model_is_a_drained_swap_to_itself() -> None:
    world = serving_world()
    world.running = 1
    world.edit("mistral")
    world.run(seconds=5)
    assert world.deployments["mistral"].replicas == 1, "a running request must finish"
    world.running = 0
    world.run(until=world.active("mistral"))

    last = world.status.last_swap
    assert last is not None
    assert last.reason == Reason.EDITED_BY_HAND
    assert "RollingUpdate" not in world.deployments["mistral"].ownership


def test_a_controller_that_edits_again_and_again_is_given_in_to_and_the_model_serves() -> None:
    world = serving_world()
    served = 0
    for _ in range(1800):
        world.edit("mistral")
        world.turn()
        served += world.status.active_model == "mistral"
        world.now += timedelta(seconds=1)

    assert served > 1700
    last = [each.message for each in world.told if each.reason == Reason.EDITED_BY_HAND]
    assert last[-1].endswith("it is left so until its spec changes")
    assert len(last) < 10


def test_deleted_objects_of_a_stopped_model_are_made_again_and_told_of() -> None:
    world = serving_world()
    del world.deployments["coder"]
    del world.services["coder"]
    world.run(seconds=2)

    assert {"coder"} <= world.deployments.keys() & world.services.keys()
    assert [each.message for each in world.told if each.reason == Reason.DELETED_BY_HAND] == [
        "Deployment l4-coder was deleted by hand; it is made anew",
        "Service l4-coder was deleted by hand; it is made anew",
    ]


def edits(world: World) -> list[str]:
    return [each.message for each in world.told if each.reason == Reason.EDITED_BY_HAND]


def test_the_active_deployment_scaled_down_by_hand_is_put_back() -> None:
    world = serving_world()
    world.deployments["mistral"] = replace(world.deployments["mistral"], replicas=0)

    world.run(seconds=5)
    world.run(until=world.active("mistral"))


def test_a_changed_spec_of_the_active_model_is_a_drained_swap_to_itself() -> None:
    world = serving_world()
    world.running = 1
    changed = model("mistral", engine={"args": ["--max-model-len", "4096"]})
    world.raw_spec["models"] = [changed, model("coder", "11Gi"), model("llava", "20Gi")]
    before = world.deployments["mistral"].spec_hash

    world.run(seconds=5)
    assert world.deployments["mistral"].spec_hash == before, "a running request must finish"
    world.running = 0
    world.run(until=world.active("mistral"))

    assert world.deployments["mistral"].spec_hash != before
    assert world.status.swap_costs == [], "no swap from one model to another"


def test_a_changed_spec_of_a_stopped_model_disturbs_nobody() -> None:
    world = serving_world()
    swaps = world.status.swaps_succeeded
    changed = model("coder", "11Gi", engine={"args": ["--max-model-len", "4096"]})
    world.raw_spec["models"] = [model("mistral"), changed, model("llava", "20Gi")]
    before = world.deployments["coder"].spec_hash

    world.run(seconds=10)

    assert world.deployments["coder"].spec_hash != before
    assert world.status.active_model == "mistral"
    assert world.status.swaps_succeeded == swaps


def test_a_model_removed_while_active_drains_and_leaves_nothing() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)
    world.run(until=world.active("coder"))
    world.demand("gateway-a")
    world.raw_spec["models"] = [model("mistral"), model("llava", "20Gi")]

    world.run(until=world.active("mistral"))
    world.run(seconds=10)

    assert "coder" not in world.deployments
    assert "coder" not in world.services
    assert any(action == Delete("Deployment", "l4-coder") for action in world.acted)


def test_a_model_removed_while_it_is_loaded_gives_way() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: world.deployments["coder"].replicas == 1)
    world.raw_spec["models"] = [model("mistral"), model("llava", "20Gi")]

    world.run(until=world.active("mistral"))


def test_an_entry_that_is_not_renewed_is_ignored_and_removed() -> None:
    world = serving_world()
    world.running = 1
    world.demand("gateway-dead", coder=1)

    world.run(seconds=35)

    assert RemoveRequest("gateway-dead") in world.acted
    assert world.status.active_model == "mistral"


def test_an_idle_gpu_is_freed_when_the_spec_says_so_and_stays_free() -> None:
    world = serving_world(swap={"idle": {"action": "ScaleToZero", "afterSeconds": 60}})

    world.run(seconds=200, until=lambda world: not world.pods)
    world.run(seconds=60)

    assert world.status.active_model is None
    assert not any(view.replicas for view in world.deployments.values())
    world.demand("gateway-a", coder=1)
    world.run(until=world.active("coder"))


def test_an_idle_gpu_returns_to_the_default_when_the_spec_says_so() -> None:
    world = serving_world(swap={"idle": {"action": "ReturnToDefault", "afterSeconds": 60}})
    world.demand("gateway-a", coder=1)
    world.run(until=world.active("coder"))
    world.demand("gateway-a")

    world.run(seconds=200, until=world.active("mistral"))


def test_steady_state_plans_no_write_and_no_action() -> None:
    world = serving_world()
    world.run(seconds=2)
    writes, acted = world.status_writes, len(world.acted)

    world.run(seconds=600)

    assert world.status_writes == writes
    assert len(world.acted) == acted


def test_planning_the_same_observation_twice_gives_the_same_plan() -> None:
    from modelserving_operator.planning import plan

    world = serving_world()
    world.demand("gateway-a", coder=1)
    seen = world.observe()

    assert plan(seen) == plan(seen)


def test_a_restarted_operator_goes_on_with_the_swap() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: world.status.current_swap is not None)
    swap = world.status.current_swap
    assert swap is not None

    for _ in range(60):
        world.forget()
        world.run(seconds=1)

    assert world.status.active_model == "coder"
    assert world.status.last_swap is not None
    assert world.status.last_swap.id == swap.id


def test_a_scale_up_on_an_old_view_is_stopped_by_the_fresh_list() -> None:
    world = World()
    world.lag = 6
    world.demand("gateway-a", coder=1)
    while world.deployments.get("coder") is None or world.deployments["coder"].replicas == 0:
        world.turn()
    world.raw_spec["activeModel"] = "llava"

    for _ in range(3):
        world.turn()

    assert ScaleUp("llava") in world.acted, "the old view shows a free GPU"
    world.lag = 0
    world.run(until=world.active("llava"))


def test_two_replicas_of_the_active_model_become_one_and_it_goes_on_serving() -> None:
    world = serving_world()
    world.deployments["mistral"] = replace(world.deployments["mistral"], replicas=2)
    world.turn()

    assert world.deployments["mistral"].replicas == 1
    assert world.status.active_model == "mistral"


def test_a_newer_pod_that_is_not_ready_does_not_take_the_serving_one_away() -> None:
    world = serving_world()
    (pod,) = world.pods.values()
    world.pods["second"] = replace(
        pod,
        uid="second",
        name="mistral-x",
        ready=False,
        scheduled=False,
        phase="Pending",
        created=world.now,
    )
    world.turn()

    assert world.status.active_model == "mistral"


def test_an_engine_that_restarted_in_its_pod_is_probed_again() -> None:
    world = serving_world()
    world.hanging.add("mistral")
    world.turn()
    assert world.status.active_model is None
    world.hanging.clear()
    probes = sum(isinstance(action, Probe) for action in world.acted)
    world.run(until=world.active("mistral"))

    assert sum(isinstance(action, Probe) for action in world.acted) == probes + 1


def test_trying_a_broken_pin_again_never_cuts_off_the_way_back() -> None:
    world = serving_world()
    world.broken.add("coder")
    world.raw_spec["activeModel"] = "coder"
    served = 0
    for _ in range(600):
        world.turn()
        served += world.status.active_model == "mistral"
        world.now += timedelta(seconds=1)

    assert served > 300


def test_where_the_maximum_wait_cannot_be_kept_a_turn_serves_what_waited_and_it_is_told() -> None:
    world = serving_world(swap={"maxWaitSeconds": 5})
    world.running = 1
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: world.status.current_swap is not None)
    world.running = 0
    world.demand("gateway-b", mistral=1)
    world.run(until=world.active("coder"))
    world.running = 1
    world.run(seconds=9)

    assert world.status.active_model == "coder", "gateway-a has not let go of its request yet"
    ready = world.status.condition(ConditionType.READY)
    assert ready is not None
    assert "maxWaitSeconds=5 cannot be kept" in ready.message
    world.demand("gateway-a")
    world.run(seconds=2, until=lambda world: world.status.current_swap is not None)
    world.run(seconds=10)
    assert world.deployments["coder"].replicas == 1, "what it was given is finished first"


def test_what_swaps_cost_is_learned_with_the_end_of_each_and_written_with_it() -> None:
    world = serving_world()
    world.running = 1
    world.demand("gateway-a", coder=1)
    world.raw_spec["activeModel"] = "coder"
    world.run(seconds=4)
    world.running = 0
    world.run(until=world.active("coder"))

    (cost,) = world.status.swap_costs
    swap = world.status.last_swap
    assert swap is not None
    assert swap.parts.drain_seconds is not None
    assert (cost.from_model, cost.to_model) == ("mistral", "coder")
    assert cost.seconds == pytest.approx(swap.seconds - swap.parts.drain_seconds)
    assert cost.drain_seconds == swap.parts.drain_seconds
    world.run(seconds=2)
    writes = world.status_writes
    world.run(seconds=60)
    assert world.status_writes == writes


def test_the_end_of_a_swap_tells_how_long_somebody_had_waited_for_it() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)
    asked = world.now
    world.run(until=world.active("coder"))

    swap = world.status.last_swap
    assert swap is not None
    assert swap.waited_seconds == (swap.finished_time - asked).total_seconds()


def test_a_busy_model_gives_way_early_enough_for_the_other_one_to_be_ready_in_time() -> None:
    world = serving_world(swap={"maxWaitSeconds": 120, "drainTimeoutSeconds": 20})
    world.running = 1
    world.demand("gateway-a", coder=1)
    asked = world.now
    for _ in range(400):
        world.renew()
        world.run(seconds=0.5)
        if world.active("coder")(world):
            break

    waited = (world.now - asked).total_seconds()
    assert 60 < waited <= 120, "neither at once nor too late, though the drain took all it may"


def test_an_urgent_request_is_next_though_others_came_before_it() -> None:
    world = serving_world(swap={"maxWaitSeconds": 600})
    world.running = 1
    world.demand("gateway-a", coder=1)
    world.run(seconds=5)
    world.demand("gateway-b", llava=1)
    (entry,) = [each for each in world.raw_spec["requests"] if each["requester"] == "gateway-b"]
    entry["models"][0]["priority"] = "high"
    world.running = 0
    world.run(until=lambda world: world.status.current_swap is not None)

    assert world.status.target_model == "llava"


def test_a_wait_for_a_busy_model_costs_one_write() -> None:
    world = serving_world(swap={"maxWaitSeconds": 600})
    world.running = 1
    world.run(seconds=2)
    writes = world.status_writes
    world.demand("gateway-a", coder=1)
    for second in range(25):
        world.running = 1 + second % 2
        world.finished += 1
        world.run(seconds=1)

    assert world.status.active_model == "mistral"
    assert world.status_writes == writes + 1


def test_another_drain_budget_restarts_nothing() -> None:
    world = serving_world()
    world.raw_spec["swap"] = {"drainTimeoutSeconds": 61}
    swaps = world.status.swaps_succeeded
    world.run(seconds=10)

    assert world.status.swaps_succeeded == swaps
    assert world.status.active_model == "mistral"


def test_an_engine_that_runs_is_adopted_when_the_status_was_lost() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)
    world.run(until=world.active("coder"))
    world.demand("gateway-a")
    world.running = 1
    world.status = ModelServingStatus()

    world.run(seconds=5, until=world.active("coder"))


def test_an_idle_countdown_writes_nothing() -> None:
    world = serving_world(swap={"idle": {"action": "ScaleToZero", "afterSeconds": 3600}})
    world.run(seconds=2)
    writes = world.status_writes

    for _ in range(120):
        world.finished += 1
        world.run(seconds=5)

    assert world.status_writes == writes


def test_a_gpu_freed_on_purpose_is_not_called_a_failure() -> None:
    world = serving_world(swap={"idle": {"action": "ScaleToZero", "afterSeconds": 60}})
    world.broken.add("coder")
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: world.status.swaps_failed == 1)
    world.demand("gateway-a")
    world.run(seconds=300)

    ready = world.status.condition(ConditionType.READY)
    assert ready is not None
    assert ready.reason == Reason.IDLE
    degraded = world.status.condition(ConditionType.DEGRADED)
    assert degraded is not None
    assert "tried again when it is asked for" in degraded.message
