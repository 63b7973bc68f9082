"""Why a sandbox did not come up, in one sentence with the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cupola.agents import Failure, Phase, Probe
from cupola.drivers.base import Life, Listener, Observation
from cupola.errors import DriverUnavailable, StartFailed
from cupola.sandboxes import evidence

RUNNING = Observation(Life.RUNNING)


def explain(
    observation: Observation = RUNNING,
    probes: Sequence[str] = ("connection refused",),
    log: Sequence[str] = (),
    listeners: Sequence[Listener] | None = None,
    *,
    loopback_answers: bool = False,
) -> Failure:
    return evidence.of_probe(
        observation,
        [Probe(float(number), outcome) for number, outcome in enumerate(probes)],
        log,
        listeners,
        port=8088,
        memory=2 * 1024**3,
        timeout=60,
        loopback_answers=loopback_answers,
    )


def ended(code: int | None, *, out_of_memory: bool = False) -> Observation:
    return Observation(Life.EXITED, code, out_of_memory)


def test_out_of_memory() -> None:
    """The kernel's kill is named with the limit, whatever else was seen."""
    failure = explain(ended(137, out_of_memory=True), log=["ValueError: x"])
    assert "ran out of memory" in failure.message
    assert "limit of 2Gi" in failure.message
    assert "Raise 'memory'" in failure.message
    assert (failure.phase, failure.exit_code) == (Phase.START, 137)


def test_a_missing_module() -> None:
    """The last line of the traceback is quoted, with where to add what is missing."""
    log = ["Traceback (most recent call last):", '  File "main.py"', "ModuleNotFoundError: No module named 'flask'"]
    failure = explain(ended(1), log=log)
    assert "exit code 1" in failure.message
    assert "No module named 'flask'" in failure.message
    assert "requirements.txt" in failure.message
    assert failure.log == tuple(log)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("KeyError: 'MODEL_NAME'", "'environment_variables'"),
        ("MemoryError: ", "Raise 'memory'"),
        ("pydantic_core.ValidationError: 1 error", "traceback"),
        ("app.errors.SetupException: no", "traceback"),
    ],
)
def test_other_exceptions(line: str, hint: str) -> None:
    """Each with what usually helps."""
    message = explain(ended(1), log=["before", line]).message
    assert line.strip() in message
    assert hint in message


@pytest.mark.parametrize(
    ("code", "log", "said"),
    [
        (1, ["exec /app/run: exec format error"], "--platform linux/amd64"),
        (127, ["sh: 1: serve: not found"], "start command was not found"),
        (126, [], "start command was not found"),
        (137, [], "it was killed"),
        (0, ["done"], "must keep serving"),
        (3, ["what now"], "exit code 3 before it was ready; its last log lines are in 'log'"),
        (3, [], "it has written nothing"),
        (None, [], "The agent's process ended before it was ready"),
    ],
)
def test_how_processes_end(code: int | None, log: list[str], said: str) -> None:
    """Architecture, start command, kill, return, and what has no better name."""
    failure = explain(ended(code), log=log)
    assert said in failure.message
    assert failure.code == "UserError"


def test_removed_by_somebody_else() -> None:
    """What took the sandbox away is no fault of the agent's, and it is said that asking again helps."""
    failure = explain(Observation(Life.GONE), ["connection refused"])
    assert failure.message.startswith("The agent's sandbox was removed before it was ready, by something other")
    assert "Ask again" in failure.message
    assert (failure.phase, failure.code, failure.exit_code) == (Phase.START, "ProvisioningError", None)


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (ended(3), "exit code 3 while it served; it has written nothing"),
        (ended(137), "it was killed. If somebody did that, or a restart of the engine, ask again"),
        (ended(137, out_of_memory=True), "or load less."),
        (Observation(Life.GONE), "was removed while it served"),
    ],
)
def test_the_end_of_one_that_was_ready(observation: Observation, said: str) -> None:
    """Nobody is told that it was not ready."""
    failure = evidence.of_end(observation, (), 2 * 1024**3)
    assert said in failure.message
    assert "ready" not in failure.message


def test_no_readiness_route() -> None:
    """404 means: it serves, but not this."""
    failure = explain(probes=["connection refused", "404"])
    assert "GET /readiness is 404" in failure.message
    assert (failure.phase, failure.code) == (Phase.PROBE, "ContainerProbesFailed")
    assert [probe.outcome for probe in failure.probes] == ["connection refused", "404"]


def test_never_ready() -> None:
    """The status and the time that it had are named."""
    assert "answered 503 for 60 s" in explain(probes=["503"]).message


def test_bound_to_loopback() -> None:
    """A container that listens to itself is told how to listen to others."""
    message = explain(listeners=[Listener("127.0.0.1", 8088)]).message
    assert "127.0.0.1:8088" in message
    assert "0.0.0.0:8088" in message


def test_a_loopback_bind_is_no_fault_of_a_process() -> None:
    """Where loopback is reached, the reason must be another."""
    message = explain(listeners=[Listener("127.0.0.1", 8088)], loopback_answers=True).message
    assert "did not answer GET /readiness on port 8088" in message


def test_the_wrong_port() -> None:
    """Both ports are named, in order."""
    message = explain(listeners=[Listener("0.0.0.0", 9000), Listener("::", 8000)]).message
    assert "listens on port 8000, 9000, not on 8088" in message
    assert "PORT" in message


def test_no_port_at_all() -> None:
    """Still loading, or no server: the setting for the first is named."""
    message = explain(listeners=[]).message
    assert "listened on no port" in message
    assert "CUPOLA_READY_TIMEOUT" in message


def test_nothing_is_known() -> None:
    """Without a look inside, the last probe speaks."""
    message = explain(probes=["connection refused", "no answer in time"], log=["loading"]).message
    assert "(no answer in time)" in message
    assert "'log'" in message
    assert "nothing was asked" in explain(probes=[]).message


def test_at_most_forty_lines_are_kept() -> None:
    """The last ones."""
    failure = explain(ended(3), log=[f"line {n}" for n in range(100)])
    assert len(failure.log) == 40
    assert failure.log[-1] == "line 99"


def test_a_drivers_own_words() -> None:
    """Phase, code and details of a driver's failure are kept; pip's output rides along."""
    error = StartFailed(
        "The image does not exist.",
        phase="pull",
        code="ImageError",
        exit_code=2,
        details=[{"code": "InvalidContainerImage", "message": "m"}],
        extra={"log": ["one", "two"]},
    )
    failure = evidence.of_error(error, Phase.VALIDATE, ["other"])
    assert (failure.phase, failure.code, failure.exit_code) == (Phase.PULL, "ImageError", 2)
    assert failure.details[0]["code"] == "InvalidContainerImage"
    assert failure.log == ("one", "two")


def test_an_error_without_a_phase_takes_the_one_we_were_in() -> None:
    """The engine may go away at any step."""
    failure = evidence.of_error(DriverUnavailable("The engine is gone."), Phase.CREATE, ["last"])
    assert (failure.phase, failure.message, failure.log) == (Phase.CREATE, "The engine is gone.", ("last",))
