"""Turning what was seen of a sandbox that did not come up into one sentence with a remedy.

Pure: everything that was seen is an argument. The codes are the service's (control-plane.md §4.1); names that users
search for ride in `details` (§4.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cupola.agents import Failure, Phase, Probe
from cupola.drivers.base import Life, Listener, Observation
from cupola.errors import CupolaError, SessionNotReady, StartFailed

LOG_LINES = 40
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_KILLED = 137
_NOT_EXECUTABLE = frozenset({126, 127})
_BEFORE, _AFTER = "before it was ready", "while it served"
_CODES = {Life.RUNNING: "ContainerProbesFailed", Life.EXITED: "UserError", Life.GONE: "ProvisioningError"}


def of_error(error: CupolaError, phase: Phase, log: Sequence[str] = ()) -> Failure:
    """A failure that a driver or a build raised; its own phase wins over the one we were in."""
    exit_code = error.exit_code if isinstance(error, StartFailed) else None
    named = Phase(error.phase) if isinstance(error, StartFailed) else phase
    lines = error.extra.get("log") or log
    return Failure(
        phase=named,
        code=error.code,
        message=error.message,
        exit_code=exit_code,
        log=tuple(str(line) for line in lines)[-LOG_LINES:],
        details=error.details,
    )


def of_probe(
    observation: Observation,
    probes: Sequence[Probe],
    log: Sequence[str],
    listeners: Sequence[Listener] | None,
    *,
    port: int,
    memory: int,
    timeout: float,
    loopback_answers: bool,
) -> Failure:
    """Why a started sandbox never answered 200.

    `port` is the one that it was told to use. `loopback_answers` is true where a bind to 127.0.0.1 would have been
    reached, as with child processes.
    """
    sentence = _sentence(
        observation,
        probes,
        log,
        listeners,
        port=port,
        memory=memory,
        timeout=timeout,
        loopback_answers=loopback_answers,
    )
    return Failure(
        phase=Phase.PROBE if observation.life is Life.RUNNING else Phase.START,
        code=_CODES[observation.life],
        message=sentence,
        exit_code=observation.exit_code,
        probes=tuple(probes),
        log=tuple(log)[-LOG_LINES:],
    )


def of_end(observation: Observation, log: Sequence[str], memory: int) -> Failure:
    """Why a sandbox that was ready is no more."""
    return Failure(
        phase=Phase.START,
        code=_CODES[observation.life],
        message=_of_end(observation, log, memory, _AFTER),
        exit_code=observation.exit_code,
        log=tuple(log)[-LOG_LINES:],
    )


def with_command(failure: Failure, command: str) -> Failure:
    """The failure of a sandbox that has written something, with the command that shows all of it."""
    if not failure.log:
        return failure
    return replace(failure, message=f"{failure.message} `{command}` shows all that it wrote.")


def _sentence(
    observation: Observation,
    probes: Sequence[Probe],
    log: Sequence[str],
    listeners: Sequence[Listener] | None,
    *,
    port: int,
    memory: int,
    timeout: float,
    loopback_answers: bool,
) -> str:
    if observation.life is not Life.RUNNING:
        return _of_end(observation, log, memory, _BEFORE)
    answered = next((p.outcome for p in reversed(probes) if p.outcome.isdigit()), None)
    if answered == "404":
        return (
            f"The agent answers on port {port}, but GET /readiness is 404. "
            "Serve GET /readiness with status 200 (the official adapters do it by themselves)."
        )
    if answered is not None:
        return (
            f"GET /readiness on port {port} answered {answered} for {timeout:g} s, never 200. "
            f"The agent says that it is not ready{_see(log)}."
        )
    if listeners is not None:
        found = _of_listeners(listeners, port, timeout, loopback_answers)
        if found is not None:
            return found
    last = probes[-1].outcome if probes else "nothing was asked"
    return (
        f"The agent did not answer GET /readiness on port {port} within {timeout:g} s ({last}). "
        "If its start takes longer, raise CUPOLA_READY_TIMEOUT" + _see(log) + "."
    )


def _of_end(observation: Observation, log: Sequence[str], memory: int, when: str) -> str:
    if observation.out_of_memory:
        return (
            f"The agent ran out of memory: it used more than its limit of {memory / 1024**3:g}Gi and was killed. "
            f"Raise 'memory' in the definition (up to 8Gi), or load less{' at start' if when == _BEFORE else ''}."
        )
    if observation.life is Life.GONE:
        return (
            f"The agent's sandbox was removed {when}, by something other than Cupola: the container engine was "
            "restarted, or somebody removed it. Ask again: that starts a new one, with the same files."
        )
    code = observation.exit_code
    text = "\n".join(log[-LOG_LINES:])
    ended = "The agent's process ended" if code is None else f"The agent's process ended with exit code {code}"
    if "exec format error" in text.lower():
        return (
            f"{ended}: the image was built for another processor architecture. "
            "Build it for this machine, usually with `docker build --platform linux/amd64`."
        )
    last_error = next((line.strip() for line in reversed(log) if _is_exception(line)), None)
    if last_error is not None:
        hint = _hint_of(last_error)
        return f"{ended} {when}: {last_error}. {hint}"
    if code in _NOT_EXECUTABLE:
        return f"{ended}: its start command was not found or may not be executed. Check CMD and ENTRYPOINT."
    if code == _KILLED:
        return (
            f"{ended}: it was killed. If somebody did that, or a restart of the engine, ask again; "
            "if it needs more memory than its limit, raise 'memory' in the definition."
        )
    if code == 0:
        return f"{ended} {when}: the start command must keep serving, not return."
    return f"{ended} {when}{_see(log)}."


def _see(log: Sequence[str]) -> str:
    return "; its last log lines are in 'log'" if log else "; it has written nothing to its output"


def _is_exception(line: str) -> bool:
    """A line that ends a Python traceback: `ModuleNotFoundError: No module named 'x'`."""
    head, separator, _ = line.partition(":")
    name = head.rsplit(".", 1)[-1]
    return (
        bool(separator) and not line.startswith(" ") and name.isidentifier() and name.endswith(("Error", "Exception"))
    )


def _hint_of(error: str) -> str:
    if error.startswith(("ModuleNotFoundError", "ImportError")):
        return "Add what is missing to requirements.txt (or to the image) and deploy again."
    if error.startswith("MemoryError"):
        return "Raise 'memory' in the definition, or load less at start."
    if error.startswith("KeyError"):
        return "If this is a variable of the environment, set it in 'environment_variables' of the definition."
    return "The traceback is in the last log lines."


def _of_listeners(listeners: Sequence[Listener], port: int, timeout: float, loopback_answers: bool) -> str | None:
    on_port = [entry for entry in listeners if entry.port == port]
    if on_port and all(entry.host in _LOOPBACK for entry in on_port) and not loopback_answers:
        return (
            f"The agent listens on 127.0.0.1:{port}, which only it can reach itself. "
            f"Bind 0.0.0.0:{port} (uvicorn: --host 0.0.0.0)."
        )
    if not on_port and listeners:
        others = ", ".join(sorted({str(entry.port) for entry in listeners}, key=int))
        return (
            f"The agent listens on port {others}, not on {port}. "
            f"Listen on 0.0.0.0:{port}, or read the port from the variable PORT."
        )
    if not listeners:
        return (
            f"The agent runs, but it listened on no port within {timeout:g} s. "
            f"Start an HTTP server on 0.0.0.0:{port}; if its start takes longer, raise CUPOLA_READY_TIMEOUT."
        )
    return None


def not_ready(failure: Failure, session_id: str | None) -> SessionNotReady:
    """The 424 of a sandbox that did not come up, with all the evidence."""
    subject = f"Session '{session_id}'" if session_id else "The session"
    return SessionNotReady(
        f"{subject} did not become ready: {failure.message}",
        details=[{"code": failure.code, "message": failure.message}, *failure.details],
        extra={"agent_session_id": session_id, **failure.to_json()},
    )
