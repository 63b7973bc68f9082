"""Each field of the wire (fields.py) does what its row says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from cupola.drivers.fake import Behaviour, FakeSandbox, Reply, Request
from tests.support.agents import echo
from tests.support.platform import DEFINITION, OPENAI, PROJECT, PlatformUnderTest, open_platform

from .fields import FIELDS, Field, State

AGENT = f"{PROJECT}/agents/a1"
BARE = {key: value for key, value in DEFINITION.items() if key not in ("container_configuration", "protocol_versions")}
IMAGE = {"container_configuration": {"image": "agent:1"}}


def each(fields: Iterable[Field]) -> pytest.MarkDecorator:
    params = [pytest.param(field, id=field.name, marks=pytest.mark.field(field.name)) for field in fields]
    return pytest.mark.parametrize("field", params)


def of(place: str, *states: State) -> list[Field]:
    return [field for field in FIELDS if field.place == place and field.state in states]


def at(shown: Any, path: Iterable[str]) -> Any:
    for name in path:
        shown = shown[name]
    return shown


@each([field for field in of("definition", State.SERVED, State.KEPT) if field.sample is not None])
async def test_a_definition_comes_back_as_it_was_sent(platform: PlatformUnderTest, field: Field) -> None:
    """What a definition says is shown in its own words, whether it does something or not."""
    named = "image" in field.path[-1:]
    sent = {**BARE, **({} if named else IMAGE), **field.sent()}
    if not named and "container_configuration" in field.path:
        sent["container_configuration"] = {**IMAGE["container_configuration"], **sent["container_configuration"]}
    answer = await platform.call("POST", f"{AGENT}/versions", {"definition": sent})
    assert answer.status == 200, answer.body
    shown = (await platform.call("GET", f"{AGENT}/versions/1")).json()
    assert at(shown["definition"], field.path) == field.sample


@each([field for field in of("version", State.SERVED) if field.sample is not None])
async def test_a_version_keeps_what_was_said_of_it(platform: PlatformUnderTest, field: Field) -> None:
    """Description, metadata and draft are shown as they were sent."""
    answer = await platform.call("POST", f"{AGENT}/versions", {"definition": DEFINITION, **field.sent()})
    assert answer.status == 200, answer.body
    shown = (await platform.call("GET", f"{AGENT}/versions/{answer.json()['version']}")).json()
    assert at(shown, field.path) == field.sample


@each(of("version", State.IGNORED))
async def test_what_a_version_ignores_changes_nothing(platform: PlatformUnderTest, field: Field) -> None:
    """It is taken, and what is shown is what would be shown without it."""
    plain = (await platform.call("POST", f"{AGENT}/versions", {"definition": DEFINITION})).json()
    answer = await platform.call("POST", f"{AGENT}/versions", {"definition": DEFINITION, **field.sent()})
    assert answer.status == 200, answer.body
    assert answer.json()["version"] == plain["version"] == "1"
    assert answer.json().get(field.path[0]) == plain.get(field.path[0]) != field.sample


@each(of("version", State.SHOWN))
async def test_a_version_shows(platform: PlatformUnderTest, field: Field) -> None:
    """What only the platform says is there: null for the error of what works, anything else not."""
    shown = await platform.create_version()
    assert (shown[field.path[0]] is None) == (field.name == "version.error")


@each(of("agent", State.SHOWN))
async def test_an_agent_shows(platform: PlatformUnderTest, field: Field) -> None:
    """The same of an agent; it has no card, no worker and no reason to be disabled."""
    await platform.create_version()
    shown = (await platform.call("GET", AGENT)).json()
    assert (shown[field.path[0]] is None) == (field.path[0] in ("agent_card", "state_source", "digital_worker_type"))


@each([*of("agent_endpoint", State.SERVED, State.KEPT)])
async def test_an_endpoint_comes_back_as_it_was_set(platform: PlatformUnderTest, field: Field) -> None:
    """Each member of the endpoint is read back as it was patched."""
    await platform.create_version()
    await settle(platform, {"agent_endpoint": field.sent()})
    shown = (await platform.call("GET", AGENT)).json()["agent_endpoint"]
    assert at(shown, field.path) == field.sample


@each(of("agent_card", State.SERVED))
async def test_a_card_comes_back_as_it_was_set(platform: PlatformUnderTest, field: Field) -> None:
    """Each member of the card is read back as it was patched."""
    await platform.create_version()
    card = {"version": "0.9", "skills": [], **field.sent()}
    await settle(platform, {"agent_card": card})
    assert (await platform.call("GET", AGENT)).json()["agent_card"] == card


async def settle(platform: PlatformUnderTest, patch: Mapping[str, Any]) -> None:
    answer = await platform.call("PATCH", AGENT, patch)
    assert answer.status == 200, answer.body


@each(of("response", State.PASSED))
async def test_a_request_reaches_the_agent(tmp_path: Path, field: Field) -> None:
    """What Cupola has no use for is handed to the agent as it came."""
    heard: list[dict[str, Any]] = []

    async def listening(sandbox: FakeSandbox, request: Request) -> Reply:
        if request.path == "/responses":
            heard.append(orjson.loads(request.body))
        return await echo(sandbox, request)

    async with open_platform(tmp_path, Behaviour(handler=listening)) as platform:
        await platform.create_version()
        await platform.call("POST", f"{OPENAI}/responses", {"input": "hello", **field.sent()})
    assert at(heard[0], field.path) == field.sample


@each([field for field in of("conversation", State.SERVED) if field.sample is not None])
async def test_a_conversation_keeps(platform: PlatformUnderTest, field: Field) -> None:
    """Its metadata is read back."""
    made = (await platform.call("POST", f"{OPENAI}/conversations", field.sent())).json()
    shown = (await platform.call("GET", f"{OPENAI}/conversations/{made['id']}")).json()
    assert at(shown, field.path) == field.sample


@each(of("conversation", State.SHOWN))
async def test_a_conversation_shows(platform: PlatformUnderTest, field: Field) -> None:
    """What only the platform says is there."""
    made = (await platform.call("POST", f"{OPENAI}/conversations", {})).json()
    assert made[field.path[0]]


@each(of("session", State.SERVED, State.SHOWN))
async def test_a_session_shows(platform: PlatformUnderTest, field: Field) -> None:
    """All of its resource is there; `stopped_at` only when it has been stopped."""
    await platform.create_version()
    indicator = {"type": "version_ref", "agent_version": "1"}
    body = {"agent_session_id": "mine", "version_indicator": indicator}
    made = await platform.call("POST", f"{AGENT}/endpoint/sessions", body)
    assert made.status == 201, made.body
    shown = made.json()
    assert (shown[field.path[0]] is None) == (field.name == "session.stopped_at")
    assert {key: shown[key] for key in body} == body


def test_no_field_has_two_rows() -> None:
    """A field has one state."""
    names = [field.name for field in FIELDS]
    assert len(names) == len(set(names))
