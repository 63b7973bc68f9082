"""Running a recorded session again: the same inputs, in order, to a new session of an agent that runs here.

What is known of the inputs is what a bundle holds: those of stored responses. Conversations and chains are continued as
they were, under the ids that they get here. What comes of it stands beside what came of it then.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from cupola.bundles import Bundle, Turn, text_of
from cupola.client import Answer
from cupola.conversations import FINAL_STATUSES
from cupola.errors import BadRequest, CupolaError, NotFound

_API = "?api-version=v1"
_ITEMS_AT_ONCE = 20
_PAUSE = 0.5
_LATENCY = "x-ms-debug-latency-"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a turn now. `status` is the response's, or the HTTP status where there was none."""

    turn: Turn
    status: str
    text: str
    milliseconds: float | None
    start_type: str | None
    note: str | None = None

    @property
    def same_status(self) -> bool:
        return self.status == self.turn.status

    @property
    def differences(self) -> list[str]:
        """The lines of the text that went (`-`) and came (`+`)."""
        lines = difflib.unified_diff(self.turn.text.splitlines(), self.text.splitlines(), lineterm="", n=0)
        return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


class Asking(Protocol):
    """What this module needs of `client.Client`."""

    def ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Answer: ...


class Replay:
    """Runs the turns of `bundle` in a new session of `agent`, on `version`; `patience` in seconds, for each of them."""

    def __init__(
        self,
        client: Asking,
        bundle: Bundle,
        project: str,
        agent: str,
        version: str,
        *,
        patience: float = 600,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sleep = sleep
        self._client = client
        self._bundle = bundle
        self._patience = patience
        self.agent = agent
        self.version = version
        self._agent_path = f"/api/projects/{quote(project, safe='')}/agents/{quote(agent, safe='')}"
        self._openai = f"{self._agent_path}/endpoint/protocols/openai/v1"
        self._ids: dict[str, str] = {}
        self._conversations: dict[str, str] = {}
        self.session = ""

    def begin(self) -> None:
        """Makes the session. Raises NotFound that says how to get an agent or a version which is not here."""
        indicator = {"type": "version_ref", "agent_version": self.version}
        answer = self._ask("POST", f"{self._agent_path}/endpoint/sessions{_API}", {"version_indicator": indicator})
        if answer.status == 404:
            raise NotFound(self._how_to_get(answer.error.get("param") == "agent_name"))
        self.session = str(_checked(answer)["agent_session_id"])

    def run(self) -> Iterator[Outcome]:
        """One outcome for each turn, as soon as it is there."""
        for turn in self._bundle.turns:
            yield self._again(turn)

    def deploy(self, variables: Mapping[str, str]) -> None:
        """Makes the recorded version here, where it ran an image; what was masked comes from `variables`."""
        definition = _definition(self._bundle, variables)
        made = _checked(self._ask("POST", f"{self._agent_path}/versions{_API}", {"definition": definition}))
        self.version = str(made["version"])
        until = time.monotonic() + self._patience
        while made["status"] == "creating" and time.monotonic() < until:
            self._sleep(_PAUSE)
            made = _checked(self._ask("GET", f"{self._agent_path}/versions/{self.version}{_API}"))
        if made["status"] != "active":
            failure = made.get("error") or {"message": f"it is still {made['status']}"}
            raise CupolaError(f"Version {self.agent}:{self.version} did not become active: {failure['message']}")

    def _again(self, turn: Turn) -> Outcome:
        body: dict[str, Any] = {**turn.fields, "input": turn.input, "agent_session_id": self.session}
        note = None
        if turn.previous is not None and turn.previous in self._ids:
            body["previous_response_id"] = self._ids[turn.previous]
        elif turn.previous is not None:
            note = "it continued a response that is not in the bundle, and begins anew here"
        if turn.conversation is not None:
            body["conversation"] = self._conversation(turn.conversation)
        if turn.background:
            body["background"] = True
        answer = self._ask("POST", f"{self._openai}/responses{_API}", body, {f"{_LATENCY}enabled": "true"})
        taken = answer.headers.get(f"{_LATENCY}response-begin-ms")
        start_type = answer.headers.get(f"{_LATENCY}session-start-type")
        response = self._finished(answer) if answer.status == 200 else {}
        if isinstance(response.get("id"), str):
            self._ids[turn.id] = response["id"]
        status = str(response.get("status") or f"HTTP {answer.status}")
        failure = answer.error.get("message") if answer.status != 200 else (response.get("error") or {}).get("message")
        milliseconds = None if taken is None else float(taken)
        return Outcome(turn, status, text_of(response), milliseconds, start_type, failure or note)

    def _finished(self, answer: Answer) -> Mapping[str, Any]:
        """The response at its end; one in the background is asked for again."""
        response: Mapping[str, Any] = answer.json
        until = time.monotonic() + self._patience
        while response.get("status") not in FINAL_STATUSES and time.monotonic() < until:
            self._sleep(_PAUSE)
            response = _checked(self._ask("GET", f"{self._openai}/responses/{response['id']}{_API}"))
        return response

    def _conversation(self, recorded: str) -> str:
        """The conversation that stands here for the recorded one, made with what was in it besides the turns."""
        if recorded not in self._conversations:
            items = list(self._bundle.conversations.get(recorded, ()))
            first, rest = items[:_ITEMS_AT_ONCE], items[_ITEMS_AT_ONCE:]
            made = _checked(self._ask("POST", f"{self._openai}/conversations{_API}", {"items": first}))
            self._conversations[recorded] = id = str(made["id"])
            for begin in range(0, len(rest), _ITEMS_AT_ONCE):
                more = {"items": rest[begin : begin + _ITEMS_AT_ONCE]}
                _checked(self._ask("POST", f"{self._openai}/conversations/{id}/items{_API}", more))
        return self._conversations[recorded]

    def _ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        return self._client.ask(method, path, body, headers or {})

    def _how_to_get(self, agent_is_missing: bool) -> str:
        missing = (
            f"Agent '{self.agent}' does not exist on this platform"
            if agent_is_missing
            else f"Agent '{self.agent}' has no version '{self.version}' on this platform"
        )
        other = "name one that is here with --agent" if agent_is_missing else "name one that is here with --version"
        if self._bundle.image is None:
            return (
                f"{missing}, and its code is not in the bundle: create it from its code "
                f"(agents.create_version_from_code, or azd), or {other}."
            )
        return (
            f"{missing}. It ran the image {self._bundle.image}: create it with --deploy, "
            f"or by the SDK (agents.create_version), or {other}."
        )


def _definition(bundle: Bundle, variables: Mapping[str, str]) -> dict[str, Any]:
    """The recorded definition with its variables whole. Raises BadRequest naming those that are missing."""
    if bundle.image is None:
        raise BadRequest(
            "The recorded version ran code, which is not in the bundle: create it from its code "
            "(agents.create_version_from_code, or azd), and leave --deploy out."
        )
    recorded: Mapping[str, str | None] = bundle.definition.get("environment_variables") or {}
    whole = {**recorded, **variables}
    missing = [name for name, value in whole.items() if value is None]
    if missing:
        raise BadRequest(
            f"The bundle has no values of {', '.join(missing)}, since they may be secret: "
            "give each with --env NAME=VALUE."
        )
    return {**bundle.definition, "environment_variables": whole}


def _checked(answer: Answer) -> Mapping[str, Any]:
    """The body of an answer that is no refusal; raises what the refusal says."""
    if answer.status >= 400:
        raise answer.refusal
    body: Mapping[str, Any] = answer.json
    return body


def all_as_before(outcomes: Sequence[Outcome]) -> bool:
    """Whether every turn ended with the status that it had."""
    return all(outcome.same_status for outcome in outcomes)
