"""The stand-in as a process: loading, signals, failures, and the GPU that only one may hold."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from modelserving_operator import words
from modelserving_operator.actions import Probe
from modelserving_operator.engine_client import EngineClient
from tests.harness.engines import gpu_lock
from tests.unit.engines.conftest import SimProcess, Start, eventually


def ask_slowly(engine: SimProcess, tokens: int) -> httpx.Response:
    """A request that takes 0.1 s for each token."""
    pace = {"sim_seconds_per_token": 0.1}
    return engine.ask(max_tokens=tokens, ignore_eos=True, vllm_xargs=pace)


def test_nothing_listens_before_the_model_is_loaded(start: Start) -> None:
    engine = start("mistral", "--port", "8399", SIM_LOAD_SECONDS="0.5")
    engine.wait_for_log("loading for 0.5 s")
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://127.0.0.1:8399/health")
    assert httpx.get(engine.url + "/health").status_code == 200


def test_sigterm_lets_what_runs_finish_and_turns_new_requests_away(start: Start) -> None:
    engine = start("mistral", "--shutdown-timeout", "20")
    assert engine.url
    with ThreadPoolExecutor() as pool:
        running = pool.submit(ask_slowly, engine, 40)
        eventually(lambda: engine.metric("num_requests_running") == 1)
        engine.signal(signal.SIGTERM)
        engine.wait_for_log("draining")
        late = engine.ask()
        assert late.status_code == 500  # what vLLM 0.32 answers while it drains
        assert "after shutdown" in late.json()["error"]["message"]
        assert httpx.get(engine.url + "/health").status_code == 200
        answer = running.result()
    assert answer.json()["usage"]["completion_tokens"] == 40
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert engine.exit_code() == 0


def test_without_a_shutdown_timeout_what_runs_is_aborted(start: Start) -> None:
    engine = start("mistral")
    assert engine.url
    with ThreadPoolExecutor() as pool:
        running = pool.submit(ask_slowly, engine, 500)
        eventually(lambda: engine.metric("num_requests_running") == 1)
        engine.signal(signal.SIGTERM)
        answer = running.result()
    assert answer.json()["choices"][0]["finish_reason"] == "abort"
    assert engine.exit_code() == 0


def test_what_runs_longer_than_the_shutdown_timeout_hangs_until_its_client_leaves(
    start: Start,
) -> None:
    # Seen with vLLM 0.32: whoever stops an engine must bound the wait of its clients too.
    engine = start("mistral", "--shutdown-timeout", "0.2")
    body = {"prompt": "x", "stream": True, "vllm_xargs": {"sim_seconds_per_token": 0.1}}
    with httpx.stream(
        "POST", engine.url + "/v1/completions", json={**body, "max_tokens": 100}, timeout=0.5
    ) as response:
        engine.signal(signal.SIGTERM)
        with pytest.raises(httpx.ReadTimeout):
            list(response.iter_lines())
        engine.wait_for_log("drained")
        assert engine.is_alive
    assert engine.exit_code() == 0


def test_sigterm_ends_an_engine_that_is_loading(start: Start) -> None:
    engine = start("mistral", SIM_LOAD_SECONDS="60")
    engine.wait_for_log("loading")
    engine.signal(signal.SIGTERM)
    assert engine.exit_code() == 0


def test_an_engine_that_ignores_sigterm_dies_of_sigkill_only(start: Start) -> None:
    engine = start("mistral", SIM_IGNORE_SIGTERM="1")
    assert engine.url
    engine.signal(signal.SIGTERM)
    assert engine.ask().status_code == 200
    engine.signal(signal.SIGKILL)
    assert engine.exit_code() == -signal.SIGKILL


def test_a_crash_ends_the_start_with_its_exit_code(start: Start) -> None:
    assert start("mistral", SIM_FAULT="crash", SIM_EXIT_CODE="42").exit_code() == 42


def test_a_fault_can_strike_the_first_starts_only(start: Start) -> None:
    faulty = {"SIM_FAULT": "crash", "SIM_FAULT_TIMES": "2"}
    assert start("mistral", **faulty).exit_code() == 1
    assert start("coder", **faulty).exit_code() == 1
    assert start("mistral", **faulty).exit_code() == 1
    assert start("mistral", **faulty).ask().status_code == 200


def test_out_of_memory_is_said_in_vllms_words(start: Start) -> None:
    engine = start("mistral", SIM_FAULT="oom")
    assert engine.exit_code() == 1
    assert "torch.OutOfMemoryError: CUDA out of memory" in engine.log
    assert "Engine core initialization failed" in engine.log


def test_an_engine_that_hangs_never_listens_and_still_obeys_sigterm(start: Start) -> None:
    engine = start("mistral", SIM_FAULT="hang")
    engine.wait_for_log("hanging")
    engine.signal(signal.SIGTERM)
    assert engine.exit_code() == 0
    assert "serving" not in engine.log


def test_wrong_output_is_an_answer_without_content(start: Start) -> None:
    answer = start("mistral", SIM_FAULT="empty").ask()
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("", None),
        ("empty", "the completion is empty: its tokens have no text"),
        ("garbage", "the completion's tokens are no likely ones"),
    ],
)
async def test_what_the_operator_asks_tells_an_engine_that_works_from_one_that_cannot(
    start: Start, fault: str, told: str | None
) -> None:
    engine = start("mistral", SIM_FAULT=fault)
    client = EngineClient()
    result = await client.probe(Probe("mistral", "pod", engine.url))
    await client.close()
    assert result.ok == (told is None)
    assert result.message.startswith(told or "")


def test_an_engine_that_takes_memory_of_the_node_leaves_it_some(start: Start) -> None:
    engine = start("mistral", SIM_FAULT="host-oom")
    assert engine.exit_code() == 1
    assert "no memory limit has ended this" in engine.log


def test_an_engine_without_weights_says_so_in_vllms_words(start: Start) -> None:
    engine = start("mistral", SIM_FAULT="weights")
    assert engine.exit_code() == 1
    assert words.weights_missing(engine.log)


def test_an_engine_that_dies_breaks_the_stream_that_it_was_sending(start: Start) -> None:
    engine = start("mistral", SIM_FAULT="die", SIM_DIE_AFTER_TOKENS="2")
    body = {"prompt": "x", "stream": True}
    received: list[str] = []
    with (
        httpx.stream("POST", engine.url + "/v1/completions", json=body) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        received.extend(response.iter_lines())
    assert sum(line.startswith("data: ") for line in received) == 2
    assert engine.exit_code() == 1


def test_a_second_engine_is_a_violation_and_fails_as_on_a_full_card(
    start: Start, gpu: Path
) -> None:
    first = start("mistral")
    assert first.url
    second = start("coder")
    assert second.exit_code() == 1
    assert "CUDA out of memory" in second.log
    [violation] = gpu_lock.violations(gpu)
    assert (violation.holder.model, violation.holder.pod) == ("mistral", "mistral-pod")
    assert (violation.intruder.model, violation.intruder.pod) == ("coder", "coder-pod")
    assert "coder (coder-pod) started while mistral (mistral-pod) was alive" in str(violation)
    assert first.ask().status_code == 200


def test_a_loading_or_draining_engine_holds_the_gpu_too(start: Start, gpu: Path) -> None:
    loading = start("mistral", SIM_LOAD_SECONDS="60")
    loading.wait_for_log("loading")
    assert start("coder").exit_code() == 1
    loading.signal(signal.SIGTERM)
    assert loading.exit_code() == 0
    leaving = start("llava", SIM_UNLOAD_SECONDS="60")
    assert leaving.url
    leaving.signal(signal.SIGTERM)
    leaving.wait_for_log("unloading")
    assert start("coder").exit_code() == 1
    assert [each.holder.model for each in gpu_lock.violations(gpu)] == ["mistral", "llava"]


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGKILL])
def test_the_gpu_is_free_once_the_process_is_gone(
    start: Start, gpu: Path, ends: signal.Signals
) -> None:
    first = start("mistral")
    assert first.url
    first.signal(ends)
    first.exit_code()
    assert start("coder").ask().status_code == 200
    assert gpu_lock.violations(gpu) == []
    assert any("acquired coder" in line for line in gpu_lock.history(gpu))


def test_a_sleeping_engine_leaves_the_gpu_to_another(start: Start, gpu: Path) -> None:
    first = start("mistral", VLLM_SERVER_DEV_MODE="1")
    assert httpx.post(first.url + "/sleep?level=1").status_code == 200
    assert httpx.get(first.url + "/is_sleeping").json() == {"is_sleeping": True}
    second = start("coder", VLLM_SERVER_DEV_MODE="1")
    assert second.ask().status_code == 200
    assert httpx.post(second.url + "/sleep").status_code == 200
    assert httpx.post(first.url + "/wake_up").status_code == 200
    assert first.ask().status_code == 200
    assert gpu_lock.violations(gpu) == []


@pytest.mark.parametrize(
    ("mode", "tokens", "ends"), [("abort", 600, "abort"), ("wait", 20, "length")]
)
def test_what_runs_is_over_before_the_engine_sleeps(
    start: Start, mode: str, tokens: int, ends: str
) -> None:
    engine = start("mistral", VLLM_SERVER_DEV_MODE="1")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(ask_slowly, engine, tokens)
        eventually(lambda: engine.metric("num_requests_running") == 1)
        assert httpx.post(engine.url + f"/sleep?mode={mode}").status_code == 200
        assert engine.metric("num_requests_running") == 0
        assert running.result().json()["choices"][0]["finish_reason"] == ends
        held = pool.submit(engine.ask)
        eventually(lambda: engine.metric("num_requests_waiting") == 1)
        httpx.post(engine.url + "/wake_up")
        assert held.result().status_code == 200
    assert httpx.post(engine.url + "/sleep?level=7").status_code == 400


def test_waking_beside_another_engine_is_a_violation_and_fatal(start: Start, gpu: Path) -> None:
    first = start("mistral", VLLM_SERVER_DEV_MODE="1")
    httpx.post(first.url + "/sleep")
    assert start("coder").ask().status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(first.url + "/wake_up")
    assert first.exit_code() == 1
    [violation] = gpu_lock.violations(gpu)
    assert violation.intruder.model == "mistral"


def test_without_its_directory_an_engine_says_what_to_mount(start: Start, gpu: Path) -> None:
    engine = start("mistral", SIM_GPU_DIR=str(gpu / "missing"))
    assert engine.exit_code() == 1
    assert "Mount a directory of the node" in engine.log


def test_an_unreadable_setting_is_named(start: Start) -> None:
    engine = start("mistral", SIM_LOAD_SECONDS="soon")
    assert engine.exit_code() == 1
    assert "SIM_LOAD_SECONDS is 'soon'; it must be a number" in engine.log


def test_a_behaviour_set_on_the_node_overrides_the_environment(start: Start, gpu: Path) -> None:
    gpu_lock.set_behaviour(gpu, {"coder": {"SIM_FAULT": "crash", "SIM_FAULT_TIMES": "1"}})
    assert start("coder").exit_code() == 1
    recovered = start("coder")
    assert recovered.ask().status_code == 200
    recovered.signal(signal.SIGTERM)
    assert recovered.exit_code() == 0
    gpu_lock.set_behaviour(gpu, {"coder": {"SIM_FAULT": "crash", "SIM_FAULT_TIMES": "1"}})
    assert start("coder").exit_code() == 1  # counted anew


def test_reset_forgets_violations_and_behaviours_but_not_who_holds_the_gpu(
    start: Start, gpu: Path
) -> None:
    gpu_lock.set_behaviour(gpu, {"mistral": {"SIM_TOKENS": "3"}})
    first = start("mistral")
    assert first.ask().json()["usage"]["completion_tokens"] == 3
    start("coder").exit_code()
    gpu_lock.reset(gpu)
    assert gpu_lock.violations(gpu) == []
    assert gpu_lock.history(gpu) == []
    start("coder").exit_code()
    assert len(gpu_lock.violations(gpu)) == 1
