"""One catalogue of operations for every SDK generation, sync and async: each entry does one thing and checks it.

Prints one JSON list of {operation, shows, state: ok|n/a|failed, ways, reason, checked}: `ways` says whether the SDK's
own method was used or its raw pipeline. The entries' names are read by test_catalogue.py without running this.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from os import environ
from pathlib import Path
from typing import Any
from uuid import uuid4

import openai
from azure.core.credentials import AccessToken
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from control import Control, Refused, packed  # type: ignore[import-not-found]  # lies beside the script
from sdk import Sdk, call, collect, main, project_client  # type: ignore[import-not-found]  # lies beside the script

IMAGE = "127.0.0.1:1/agent:1"
"""An image that nobody can pull, which is found out at once: no name is looked up."""

LONG = " ".join(f"word{number}" for number in range(400))
"""An input whose answer takes some seconds, word by word."""
MISSING = "0" * 50


class NotHere(Exception):
    """This generation cannot do it, for the reason that the message gives."""


@dataclass
class Bench:
    """What the entries work with: the client, names of their own, and one agent that answers."""

    sdk: Sdk
    control: Control
    folder: Path
    client: Any
    made: list[str] = field(default_factory=list)
    talker: str | None = None
    session: str | None = None

    @property
    def package(self) -> bytes:
        package: bytes = packed(self.folder)
        return package

    def image(self, number: int = 1, **changes: Any) -> Any:
        """A definition of an image that nobody can pull; another number is another definition."""
        return self.sdk.definition(IMAGE, environment_variables={"NUMBER": str(number)}, **changes)

    def name(self) -> str:
        """A name that no agent has had."""
        self.made.append(f"cat-{uuid4().hex[:12]}")
        return self.made[-1]

    async def agent(self, versions: int = 1) -> str:
        """An agent of the unpullable image, with so many versions."""
        name = self.name()
        for number in range(1, versions + 1):
            await self.control.create_version(name, self.image(number))
        return name

    async def answering(self) -> str:
        """The name of the agent that answers, deployed from code when it is first asked for."""
        if self.talker is None:
            name = self.name()
            version = await self.control.create_from_code(name, self.code_definition(), self.package)
            settled = await self.sdk.settled(await self.control.get_version(name, version["version"]))
            same("status", settled["status"], "active")
            self.talker = name
        return self.talker

    def code_definition(self) -> dict[str, Any]:
        return {
            "kind": "hosted",
            "cpu": "1",
            "memory": "2Gi",
            "code_configuration": {
                "runtime": f"python_{sys.version_info.major}_{sys.version_info.minor}",
                "entry_point": ["python", "main.py"],
                "dependency_resolution": "remote_build",
            },
            "protocol_versions": [{"protocol": "responses", "version": "2.0.0"}],
            "environment_variables": {"WORD_DELAY": "0.01"},
        }

    async def ask(self, said: Any, client: Any = None, **fields: Any) -> Any:
        """A response of the agent that answers, by `agent_reference`, in the session of the first such answer."""
        reference = {"name": await self.answering(), "type": "agent_reference"}
        extra: dict[str, Any] = {"agent_reference": reference}
        if self.session and "conversation" not in fields:
            extra["agent_session_id"] = self.session
        extra.update(fields.pop("extra_body", {}))
        answer = await call((client or self.client).responses.create(input=said, extra_body=extra, **fields))
        if self.session is None and "conversation" not in fields and not fields.get("stream"):
            self.session = answer.model_extra["agent_session_id"]
        return answer


Entry = Callable[[Bench], Awaitable[str]]
ENTRIES: list[tuple[str, tuple[str, ...], Entry]] = []


def operation(title: str, *also: str, fields: str = "") -> Callable[[Entry], Entry]:
    """Enters a function: `title` is `<operation>: <what of it>`; `also` are further operations that it shows.

    `fields` are the fields of the wire that it shows, with blanks between them.
    """

    def enter(entry: Entry) -> Entry:
        ENTRIES.append((title, (title.partition(":")[0], *also), entry))
        return entry

    return enter


def same(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise AssertionError(f"{what} is {found!r}, not {wanted!r}")


def true(what: str, found: Any) -> None:
    if not found:
        raise AssertionError(what)


async def raises(attempt: Awaitable[Any], kind: type[Exception], status: int, code: str | None = None) -> Any:
    """The exception, which must be exactly of the class that users catch, with its code filled in."""
    try:
        result = await attempt
    except Refused as refused:  # the raw pipeline has no classes
        same("status", refused.status, status)
        same("code", refused.code, code or refused.code)
        return refused
    except (HttpResponseError, openai.APIStatusError) as error:
        same("class", type(error), kind)
        same("status", error.status_code, status)
        found = error.code if isinstance(error, openai.APIStatusError) else error.error and error.error.code
        true("the error has no code", found)
        same("code", found, code or found)
        return error
    raise AssertionError(f"not refused: {result!r}")


async def asked(result: Any) -> Any:
    """A call of either client as something to await: a sync client has then not yet been called too early."""
    return await call(result())


# Agents


@operation("agents.create: a new agent, once")
async def create_agent(bench: Bench) -> str:
    name = bench.name()
    agent = await bench.control.create(name, bench.image(), description="first", metadata={"k": "v"})
    same("object and name", (agent["object"], agent["name"]), ("agent", name))
    latest = agent["versions"]["latest"]
    found = (latest["version"], latest["description"], latest["metadata"])
    same("its version", found, ("1", "first", {"k": "v"}))
    await raises(bench.control.create(name, bench.image()), ResourceExistsError, 409, "conflict")
    return "the agent with version 1; a second create is a conflict"


@operation("agents.get: its latest version, identities and endpoint")
async def get_agent(bench: Bench) -> str:
    name = await bench.agent(2)
    agent = await bench.control.get(name)
    same("object, id and name", (agent["object"], agent["id"], agent["name"]), ("agent", name, name))
    same("latest version", agent.versions.latest["version"], "2")
    same("state", agent["state"], "enabled")
    true("no principal", agent["instance_identity"]["principal_id"])
    same("blueprint reference", agent["blueprint_reference"]["type"], "ManagedAgentIdentityBlueprint")
    rules = agent["agent_endpoint"]["version_selector"]["version_selection_rules"]
    same("traffic", [rule["traffic_percentage"] for rule in rules], [100])
    return "object, id, name, versions.latest, state, identities, default traffic"


@operation("agents.get: unknown")
async def get_missing_agent(bench: Bench) -> str:
    await raises(bench.control.get(bench.name()), ResourceNotFoundError, 404, "not_found")
    return "ResourceNotFoundError with code not_found"


@operation("agents.get: without a valid token")
async def get_as_stranger(bench: Bench) -> str:
    error = await raises(stranger_gets(bench), ClientAuthenticationError, 401)
    return f"ClientAuthenticationError with code {error.error.code}"


async def stranger_gets(bench: Bench) -> Any:
    """`agents.get` with a token that nobody has made."""

    class Stranger:
        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            return AccessToken("made-up", int(time.time()) + 3600)

        async def close(self) -> None: ...

    class AsyncStranger(Stranger):
        async def get_token(self, *scopes: str, **options: Any) -> AccessToken:  # type: ignore[override]
            return Stranger.get_token(self)

    credential = AsyncStranger() if bench.sdk.mode == "async" else Stranger()
    project = await bench.sdk.enter(project_client(bench.sdk.generation, bench.sdk.mode, credential))
    return await call(project.agents.get(agent_name="anyone"))


@operation("agents.list: every agent once, page by page")
async def list_agents(bench: Bench) -> str:
    names = [await bench.agent(), await bench.agent()]
    found = [agent.name for agent in await collect(bench.sdk.agents.list(limit=5))]
    bench.control.ways.add("sdk")
    same("agents that are there twice", len(found), len(set(found)))
    true("the newest does not come first", found.index(names[1]) < found.index(names[0]))
    hosted = [agent.name for agent in await collect(bench.sdk.agents.list(kind="hosted", limit=100))]
    true("not among the hosted", names[0] in hosted)
    same("prompt agents", await collect(bench.sdk.agents.list(kind="prompt")), [])
    return "pages of 5, newest first; kind hosted and prompt"


@operation("agents.list: a limit out of range")
async def list_too_many(bench: Bench) -> str:
    bench.control.ways.add("sdk")
    error = await raises(collect(bench.sdk.agents.list(limit=1000)), HttpResponseError, 400)
    true("the message does not name limit", "limit" in error.message)
    return "HttpResponseError 400 that names limit"


@operation("agents.update: a new version, and none for the same")
async def update_agent(bench: Bench) -> str:
    name = await bench.agent()
    agent = await bench.control.update(name, bench.image(2), description="second")
    same("version", agent["versions"]["latest"]["version"], "2")
    same("description", agent["versions"]["latest"]["description"], "second")
    talker = await bench.answering()  # an active version: a failed one would be made again
    again = await bench.control.update_code(talker, bench.code_definition(), bench.package)
    same("version after the same", again["versions"]["latest"]["version"], "1")
    await raises(bench.control.update(bench.name(), bench.image()), ResourceNotFoundError, 404, "not_found")
    return "versions.latest moves to 2; the same code makes none; 404 of an unknown agent"


@operation("agents.update_details: weights of versions", fields="agent_endpoint.version_selector")
async def weigh(bench: Bench) -> str:
    name = await bench.answering()  # only versions that have become active may get traffic
    rules = [weight("1", 90), weight("@latest", 10)]
    await bench.control.update_details(name, {"agent_endpoint": selector(rules)})
    found = (await bench.control.get(name))["agent_endpoint"]["version_selector"]["version_selection_rules"]
    same("rules", [dict(rule) for rule in found], rules)
    return "90/10 is read back"


@operation("agents.update_details: weights that cannot be")
async def weigh_wrongly(bench: Bench) -> str:
    name = await bench.agent()
    for rules in ([weight("1", 90)], [weight("7", 100)], [weight("1", 101)]):
        attempt = bench.control.update_details(name, {"agent_endpoint": selector(rules)})
        await raises(attempt, HttpResponseError, 400)
    found = (await bench.control.get(name))["agent_endpoint"]["version_selector"]["version_selection_rules"]
    same("percentages", [rule["traffic_percentage"] for rule in found], [100])
    return "90 in all, an unknown version, 101: 400, and nothing has changed"


@operation("agents.update_details: protocols of the endpoint")
async def set_protocols(bench: Bench) -> str:
    name = await bench.agent()
    wanted: dict[str, Any] = {"responses": {}, "a2a": {}}
    await bench.control.update_details(name, {"agent_endpoint": {"protocol_configuration": wanted}})
    found = (await bench.control.get(name))["agent_endpoint"]
    same("protocol_configuration", {key: dict(value) for key, value in found["protocol_configuration"].items()}, wanted)
    schemes = [{"type": "Entra"}, {"type": "BotServiceRbac"}]
    await bench.control.update_details(name, {"agent_endpoint": {"authorization_schemes": schemes}})
    found = (await bench.control.get(name))["agent_endpoint"]
    same("authorization_schemes", [dict(scheme) for scheme in found["authorization_schemes"]], schemes)
    same("protocols beside it", sorted(found["protocol_configuration"]), ["a2a", "responses"])
    return "protocol_configuration and authorization_schemes, one without touching the other"


@operation("agents.update_details: an agent card, and null that removes it")
async def set_card(bench: Bench) -> str:
    name = await bench.agent()
    skill = {"id": "s", "name": "Speak", "description": "says it", "tags": ["t"], "examples": ["e"]}
    card = {"version": "1.0", "description": "a card", "skills": [skill]}
    agent = await bench.control.update_details(name, {"agent_card": card})
    same(
        "version and description",
        (agent["agent_card"]["version"], agent["agent_card"]["description"]),
        ("1.0", "a card"),
    )
    same("skills", [dict(found) for found in agent["agent_card"]["skills"]], [skill])
    changed = await bench.control.update_details(
        name, {"agent_card": None, "agent_endpoint": selector([weight("@latest", 100)])}
    )
    same("card after null", changed["agent_card"], None)
    rules = (await bench.control.get(name))["agent_endpoint"]["version_selector"]["version_selection_rules"]
    same("rules beside the null", [dict(rule) for rule in rules], [weight("@latest", 100)])
    return "card with a skill; null removes it (merge patch) while another member is set"


def weight(version: str, percentage: int) -> dict[str, Any]:
    return {"type": "FixedRatio", "agent_version": version, "traffic_percentage": percentage}


def selector(rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"version_selector": {"version_selection_rules": rules}}


@operation("agents.disable: twice, and back", "agents.enable")
async def disable(bench: Bench) -> str:
    name = await bench.agent()
    for enabled, state in ((False, "disabled"), (False, "disabled"), (True, "enabled"), (True, "enabled")):
        await bench.control.set_enabled(name, enabled)
        same("state", (await bench.control.get(name))["state"], state)
    return "state of the agent after each of disable, disable, enable, enable"


@operation("agents.delete: an agent, which is gone")
async def delete_agent(bench: Bench) -> str:
    name = await bench.agent()
    deleted = await bench.control.delete(name)
    found = (deleted["object"], deleted["name"], deleted["deleted"])
    same("reply", found, ("agent.deleted", name, True))
    await raises(bench.control.get(name), ResourceNotFoundError, 404, "not_found")
    await raises(bench.control.delete(name), ResourceNotFoundError, 404, "not_found")
    return "the reply; 404 for get and for a second delete"


# Versions


@operation("agents.create_version: numbers, description, metadata", "agents.get_version")
async def create_versions(bench: Bench) -> str:
    name = bench.name()
    began = int(time.time())
    version = await bench.control.create_version(name, bench.image(), description="the first", metadata={"team": "a"})
    same("object", version["object"], "agent.version")
    same("id, name and version", (version.id, version.name, version.version), (f"{name}:1", name, "1"))
    same("description", version.description, "the first")
    same("metadata", dict(version.metadata), {"team": "a"})
    true("created_at is no time of now", began - 5 <= version["created_at"] <= time.time() + 5)
    found = await bench.control.get_version(name, "1")
    shown = (found.id, found.description, dict(found.metadata), found["created_at"])
    same("read back", shown, (version.id, "the first", {"team": "a"}, version["created_at"]))
    second = await bench.control.create_version(name, bench.image(2))
    same("the next version", second.version, "2")
    return "id, name, version, description, metadata, created_at; read back by get"


@operation("agents.create_version: the definition in both spellings", fields="version.definition")
async def create_definition(bench: Bench) -> str:
    name = await bench.agent()
    definition = (await bench.control.get_version(name, "1"))["definition"]
    same("kind", definition["kind"], "hosted")
    same("size", (definition["cpu"], definition["memory"]), ("1", "2Gi"))
    same("variables", dict(definition["environment_variables"]), {"NUMBER": "1"})
    same("image", (definition["image"], definition["container_configuration"]["image"]), (IMAGE, IMAGE))
    protocols = [[record["protocol"] for record in definition[field]] for field in PROTOCOL_FIELDS]
    same("protocols", protocols, [["responses"], ["responses"]])
    return "image and protocols as either generation reads them; cpu, memory, variables"


PROTOCOL_FIELDS = ("protocol_versions", "container_protocol_versions")


@operation("agents.create_version: no second version for the same")
async def create_same(bench: Bench) -> str:
    name = await bench.agent()
    same("version", (await bench.control.create_version(name, bench.image(2))).version, "2")
    settled = await bench.sdk.settled(await bench.control.get_version(name, "2"))
    if settled["status"] != "failed":
        raise AssertionError(f"an image that nobody can pull is {settled['status']}")
    true("a failed version says not why", settled["error"]["code"] and IMAGE in settled["error"]["message"])
    same("the failed one again", (await bench.control.create_version(name, bench.image(2))).version, "3")
    talker = await bench.answering()
    active = await bench.control.get_version(talker, "1")
    again = await bench.control.create_from_code(talker, bench.code_definition(), bench.package)
    same("the active one again", (again["version"], again["created_at"]), ("1", active["created_at"]))
    same("versions", await bench.control.list_versions(talker), ["1"])
    return "the active latest is returned; a failed one, which says why, is made again"


@operation("agents.create_version: a draft", "agents.list_versions", fields="version.draft")
async def create_draft(bench: Bench) -> str:
    name = await bench.agent()
    draft = await bench.control.create_draft(name, bench.image(2))
    true(f"its version is {draft['version']}", draft["version"].startswith("draft-"))
    same("draft", draft["draft"], True)
    same("listed", await bench.control.list_versions(name), ["1"])
    same("listed with drafts", sorted(await bench.control.list_with_drafts(name)), ["1", draft["version"]])
    same("latest", (await bench.control.get(name)).versions.latest["version"], "1")
    return "draft-<ms>; listed only with include_drafts, never the latest"


@operation("agents.create_version: what cannot be")
async def create_wrongly(bench: Bench) -> str:
    async def attempt(word: str, name: str | None = None, definition: Any = None, **more: Any) -> None:
        making = bench.control.create_version(name or bench.name(), definition or bench.image(), **more)
        error = await raises(making, HttpResponseError, 400)
        true(f"'{word}' is not in: {error.message}", word in error.message)

    await attempt("cpu", definition=bench.image(cpu="99"))
    await attempt("memory", definition=bench.image(memory="1Mi"))
    await attempt("FOUNDRY_X", definition=bench.sdk.definition(IMAGE, environment_variables={"FOUNDRY_X": "1"}))
    await attempt("metadata", metadata={"k": "v" * 513})
    await attempt("metadata", metadata={str(number): "v" for number in range(17)})
    await attempt("-bad-", name="-bad-")
    return "400 naming cpu, memory, the reserved variable, metadata, the agent's name"


@operation("agents.list_versions: pages, either order, before")
async def list_versions(bench: Bench) -> str:
    name = await bench.agent(5)
    listing = bench.control.list_versions
    same("pages of 2", await listing(name, limit=2), ["5", "4", "3", "2", "1"])
    same("ascending", await listing(name, limit=2, order="asc"), ["1", "2", "3", "4", "5"])
    same("before", await listing(name, before=f"{name}:3"), ["5", "4"])
    await raises(listing(bench.name()), ResourceNotFoundError, 404, "not_found")
    return "newest first in pages of 2; ascending; before; 404 of an unknown agent"


@operation("agents.get_version: unknown")
async def get_missing_version(bench: Bench) -> str:
    name = await bench.agent()
    await raises(bench.control.get_version(name, "7"), ResourceNotFoundError, 404, "not_found")
    await raises(bench.control.get_version(bench.name(), "1"), ResourceNotFoundError, 404, "not_found")
    return "404 for an unknown version and for an unknown agent"


@operation("agents.delete_version: one of three, by force or not")
async def delete_version(bench: Bench) -> str:
    name = await bench.agent(3)
    for version, force in (("1", False), ("3", True)):
        deleted = await bench.control.delete_version(name, version, force=force)
        found = tuple(deleted[field] for field in ("object", "name", "version", "deleted"))
        same("reply", found, ("agent.version.deleted", name, version, True))
        await raises(bench.control.get_version(name, version), ResourceNotFoundError, 404, "not_found")
    same("left", await bench.control.list_versions(name), ["2"])
    await raises(bench.control.delete_version(name, "1"), ResourceNotFoundError, 404, "not_found")
    next_one = await bench.control.create_version(name, bench.image(9))
    same("the next number", next_one.version, "4")
    return "the reply, 404 afterwards, the others left, numbers not used again"


# Code


@operation(
    "agents.create_version: of a zip, which becomes active",
    fields="definition.code_configuration.runtime definition.code_configuration.entry_point "
    "definition.code_configuration.dependency_resolution definition.code_configuration.content_hash",
)
async def create_from_code(bench: Bench) -> str:
    name = await bench.answering()
    again = await bench.control.create_from_code(name, bench.code_definition(), bench.package)
    same("version of the same code", again["version"], "1")
    version = await bench.control.get_version(name, "1")
    same("status", version["status"], "active")
    code = version["definition"]["code_configuration"]
    same("entry_point", list(code["entry_point"]), ["python", "main.py"])
    same("dependency_resolution", code["dependency_resolution"], "remote_build")
    same("content_hash", code["content_hash"], hashlib.sha256(bench.package).hexdigest())
    return "active; entry_point, dependency_resolution, and the zip's SHA-256 as content_hash"


@operation("agents.download_code: the same bytes and hash")
async def download_code(bench: Bench) -> str:
    name = await bench.answering()
    content, headers = await bench.control.download_code(name, "1")
    same("zip", content, bench.package)
    same("x-ms-code-zip-sha256", headers.get("x-ms-code-zip-sha256"), hashlib.sha256(content).hexdigest())
    same("x-ms-agent-version", headers.get("x-ms-agent-version"), "1")
    return "the zip byte by byte; headers with hash and version"


@operation("agents.download_code: of an image")
async def download_image(bench: Bench) -> str:
    name = await bench.agent()
    await raises(bench.control.download_code(name, "1"), ResourceExistsError, 409, "AgentNotCodeBased")
    return "409 AgentNotCodeBased"


# Responses


@operation("responses.create: by agent_reference", fields="response.input response.agent_reference")
async def respond(bench: Bench) -> str:
    answer = await bench.ask("alpha")
    true(f"its id is {answer.id}", answer.id.startswith("caresp_"))
    same("object and status", (answer.object, answer.status), ("response", "completed"))
    true(f"it says {answer.output_text}", answer.output_text.startswith("Hello! You said: alpha"))
    true("it names no session", answer.model_extra["agent_session_id"])
    return "id, status, text, session"


@operation("responses.create: by the key agent, and a version", fields="response.agent")
async def respond_by_key(bench: Bench) -> str:
    name = await bench.answering()
    reference = {"name": name, "type": "agent_reference", "version": "1"}
    extra = {"agent": reference, **({"agent_session_id": bench.session} if bench.session else {})}
    answer = await call(bench.client.responses.create(input="beta", extra_body=extra))
    true(f"it says {answer.output_text}", answer.output_text.startswith("Hello! You said: beta"))
    wrong = {"agent": {**reference, "version": "7"}}
    attempt = asked(lambda: bench.client.responses.create(input="beta", extra_body=wrong))
    await raises(attempt, openai.NotFoundError, 404)
    return "the key 'agent' with a version; 404 for an unknown version"


@operation("responses.create: by the agent's own client")
async def respond_by_name(bench: Bench) -> str:
    if not bench.sdk.names_agents:
        raise NotHere("get_openai_client has no agent_name before 2.1.0")
    client, _ = await bench.sdk.openai(await bench.answering())
    extra = {"agent_session_id": bench.session} if bench.session else {}
    answer = await call(client.responses.create(input="gamma", extra_body=extra))
    true(f"it says {answer.output_text}", answer.output_text.startswith("Hello! You said: gamma"))
    same("read back", (await call(client.responses.retrieve(answer.id))).output_text, answer.output_text)
    return "get_openai_client(agent_name=...), asked and read back"


@operation("responses.create: on every base layout")
async def respond_on_each_base(bench: Bench) -> str:
    endpoint, name = environ["AZURE_AI_PROJECT_ENDPOINT"].rstrip("/"), await bench.answering()
    for root in (endpoint, f"{endpoint}/agents/{name}/endpoint/protocols"):
        for layout, version in (("/openai", "2025-11-15-preview"), ("/openai", "v1"), ("/openai/v1", None)):
            query = {"api-version": version} if version else {}
            client = bench.client.with_options(base_url=root + layout, set_default_query=query)
            answer = await bench.ask(layout, client)
            true(f"at {root}{layout} it says {answer.output_text}", f"You said: {layout}" in answer.output_text)
    return "…/openai and …/openai/v1, of the project and of the agent"


@operation("responses.create: streamed", fields="response.stream")
async def stream(bench: Bench) -> str:
    events = await collect(await bench.ask("delta", stream=True))
    kinds = [event.type for event in events]
    same("first and last", (kinds[0], kinds[-1]), ("response.created", "response.completed"))
    same("numbers", [event.sequence_number for event in events], list(range(len(events))))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    true(f"it says {text}", text.startswith("Hello! You said: delta"))
    same("text of the last event", events[-1].response.output_text, text)
    same("read back", (await call(bench.client.responses.retrieve(events[-1].response.id))).output_text, text)
    return "kinds, sequence numbers, deltas; the last event and what is read back say the same"


@operation("responses.create: after a previous response", fields="response.previous_response_id")
async def chain(bench: Bench) -> str:
    first = await bench.ask("epsilon")
    second = await bench.ask("zeta", previous_response_id=first.id)
    same("text", second.output_text, "You said: zeta I remember 1 earlier turn; the last time you said: epsilon")
    same("previous_response_id", second.previous_response_id, first.id)
    return "the earlier turn is remembered"


@operation(
    "responses.create: in a conversation",
    "conversations.create",
    "conversations.items.list",
    fields="response.conversation",
)
async def converse(bench: Bench) -> str:
    conversation = await call(bench.client.conversations.create())
    first = await bench.ask("eta", conversation=conversation.id)
    second = await bench.ask("theta", conversation={"id": conversation.id})
    same("text", second.output_text, "You said: theta I remember 1 earlier turn; the last time you said: eta")
    same("conversation", second.conversation.id, conversation.id)
    sessions = {answer.model_extra["agent_session_id"] for answer in (first, second)}
    same("sessions", len(sessions), 1)
    items = await collect(await call(bench.client.conversations.items.list(conversation.id, order="asc")))
    same("roles", [item.role for item in items], ["user", "assistant"] * 2)
    same("the user's", [item.content[0].text for item in items[::2]], ["eta", "theta"])
    return "by id and by object, in one session, remembered; its items"


@operation("responses.create: in a session", fields="response.agent_session_id")
async def respond_in_session(bench: Bench) -> str:
    first = await bench.ask("iota")
    session = first.model_extra["agent_session_id"]
    second = await bench.ask("kappa", extra_body={"agent_session_id": session})
    same("session", second.model_extra["agent_session_id"], session)
    return "the answer is of the session that was named"


@operation("responses.create: not stored", "responses.retrieve", fields="response.store")
async def respond_without_store(bench: Bench) -> str:
    answer = await bench.ask("lambda", store=False)
    true(f"it says {answer.output_text}", answer.output_text.startswith("Hello! You said: lambda"))
    await raises(asked(lambda: bench.client.responses.retrieve(answer.id)), openai.NotFoundError, 404, "not_found")
    return "answered, and not there afterwards"


@operation("responses.create: what cannot be")
async def respond_wrongly(bench: Bench) -> str:
    def ask(**fields: Any) -> Any:
        reference = {"agent_reference": {"name": bench.talker, "type": "agent_reference"}}
        return asked(lambda: bench.client.responses.create(**{"input": "x", "extra_body": reference, **fields}))

    await bench.answering()
    conversation = await call(bench.client.conversations.create())
    unknown = {"agent_reference": {"name": bench.name(), "type": "agent_reference"}}
    previous = "caresp_" + MISSING
    await raises(ask(extra_body=unknown), openai.NotFoundError, 404, "not_found")
    await raises(ask(previous_response_id=previous), openai.NotFoundError, 404, "not_found")
    await raises(ask(conversation="conv_" + MISSING), openai.NotFoundError, 404, "not_found")
    both = {"conversation": conversation.id, "previous_response_id": previous}
    await raises(ask(**both), openai.BadRequestError, 400)
    await raises(ask(background=True, store=False), openai.BadRequestError, 400)
    stranger = bench.client.with_options(api_key="made-up")
    await raises(asked(lambda: stranger.responses.retrieve(previous)), openai.AuthenticationError, 401)
    return "404 of agent, previous response, conversation; 400 of two contexts, background unstored; 401"


@operation("responses.create: of a disabled agent", "agents.disable")
async def respond_disabled(bench: Bench) -> str:
    name = await bench.answering()
    await bench.control.set_enabled(name, False)
    try:
        await raises(bench.ask("mu"), openai.PermissionDeniedError, 403)
    finally:
        await bench.control.set_enabled(name, True)
    true("it does not answer again", "You said: mu" in (await bench.ask("mu")).output_text)
    return "PermissionDeniedError; answers again after enable"


@operation("responses.retrieve: what was answered")
async def retrieve(bench: Bench) -> str:
    answer = await bench.ask("nu", metadata={"k": "v"})
    found = await call(bench.client.responses.retrieve(answer.id))
    shown = (found.id, found.status, found.output_text, found.metadata)
    same("response", shown, (answer.id, "completed", answer.output_text, {"k": "v"}))
    await raises(
        asked(lambda: bench.client.responses.retrieve("caresp_" + MISSING)), openai.NotFoundError, 404, "not_found"
    )
    return "id, status, text, metadata; 404 of an unknown one"


@operation("responses.input_items.list: in pages")
async def input_items(bench: Bench) -> str:
    said = [{"role": "user", "content": word, "type": "message"} for word in ("one", "two", "three")]
    answer = await bench.ask(said)
    listing = bench.client.responses.input_items.list
    items = await collect(await call(listing(answer.id, order="asc", limit=2)))
    same("ascending", [item.content[0].text for item in items], ["one", "two", "three"])
    items = await collect(await call(listing(answer.id, order="desc", limit=1)))
    same("descending", [item.content[0].text for item in items], ["three", "two", "one"])
    return "three items in pages of 2, and backwards in pages of 1"


@operation("responses.delete: a response, which is gone")
async def delete_response(bench: Bench) -> str:
    answer = await bench.ask("xi")
    await call(bench.client.responses.delete(answer.id))
    for attempt in (bench.client.responses.retrieve, bench.client.responses.delete):
        await raises(asked(lambda attempt=attempt: attempt(answer.id)), openai.NotFoundError, 404, "not_found")
    return "404 for retrieve and for a second delete"


@operation("responses.create: in the background", "responses.retrieve", fields="response.background")
async def background(bench: Bench) -> str:
    answer = await bench.ask("omicron", background=True)
    true(f"it begins {answer.status}", answer.status in ("queued", "in_progress"))
    same("background", answer.background, True)
    found = await finished(bench, answer.id)
    same("status", found.status, "completed")
    true(f"it says {found.output_text}", "You said: omicron" in found.output_text)
    return "answered at once; completed when it is polled"


async def finished(bench: Bench, response: str) -> Any:
    """Polls, as users of background responses do."""
    async with asyncio.timeout(60):
        while (found := await call(bench.client.responses.retrieve(response))).status in ("queued", "in_progress"):
            await asyncio.sleep(0.1)
    return found


@operation("responses.cancel: in the background, and not otherwise")
async def cancel(bench: Bench) -> str:
    answer = await bench.ask(LONG, background=True)
    cancelled = await call(bench.client.responses.cancel(answer.id))
    same("id and status", (cancelled.id, cancelled.status), (answer.id, "cancelled"))
    same("read back", (await finished(bench, answer.id)).status, "cancelled")
    same("a second time", (await call(bench.client.responses.cancel(answer.id))).status, "cancelled")
    plain = await bench.ask("pi")
    await raises(asked(lambda: bench.client.responses.cancel(plain.id)), openai.BadRequestError, 400)
    missing = "caresp_" + MISSING
    await raises(asked(lambda: bench.client.responses.cancel(missing)), openai.NotFoundError, 404, "not_found")
    return "cancelled, also when read back and a second time; 400 in the foreground; 404 unknown"


@operation("responses.retrieve: a stream from where it broke off")
async def resume(bench: Bench) -> str:
    events = await collect(await bench.ask("rho", background=True, stream=True))
    response = events[0].response.id
    retrieved = await call(bench.client.responses.retrieve(response, stream=True, starting_after=2))
    again = await collect(retrieved)
    same("numbers", [event.sequence_number for event in again], list(range(3, len(events))))
    same("kinds", [event.type for event in again], [event.type for event in events[3:]])
    return "the events after number 2, the same again"


# Sessions


@operation("sessions.create: with an id and a version", "sessions.get")
async def create_session(bench: Bench) -> str:
    name, session = await bench.answering(), f"mine-{uuid4().hex}"
    made = await bench.control.create_session(name, session, "1")
    same("id and version", (made["agent_session_id"], made["version_indicator"]["agent_version"]), (session, "1"))
    true(f"its status is {made['status']}", made["status"] in ("creating", "active"))
    true("it expires before it begins", made["expires_at"] > made["created_at"])
    found = await bench.control.get_session(name, session)
    same("read back", (found["agent_session_id"], found["created_at"]), (session, made["created_at"]))
    await raises(bench.control.create_session(name, session, "1"), ResourceExistsError, 409)
    await raises(bench.control.create_session(name, f"mine-{uuid4().hex}", "7"), ResourceNotFoundError, 404)
    answer = await bench.ask("sigma", extra_body={"agent_session_id": session})
    same("session of an answer", answer.model_extra["agent_session_id"], session)
    return "id, version, status, times; read back; 409 for a second; 404 of an unknown version; it answers"


@operation("sessions.list: each once, page by page", "sessions.get")
async def list_sessions(bench: Bench) -> str:
    name = await bench.answering()
    await bench.ask("sigma")
    found = await bench.control.list_sessions(name)
    true("not all are there", len(found) >= 2 and bench.session in found)
    same("sessions that are there twice", len(found), len(set(found)))
    same("ascending", await bench.control.list_sessions(name, order="asc"), found[::-1])
    missing = bench.control.get_session(name, "mine-" + MISSING)
    await raises(missing, ResourceNotFoundError, 404, "not_found")
    return "all, newest first and ascending; 404 of an unknown one"


@operation("sessions.stop: twice, and it answers again", "sessions.get")
async def stop_session(bench: Bench) -> str:
    name = await bench.answering()
    session = (await bench.ask("sigma")).model_extra["agent_session_id"]
    for _ in range(2):
        await bench.control.stop_session(name, session)
    same("status", (await bench.control.get_session(name, session))["status"], "idle")
    same("session of an answer", (await bench.ask("sigma")).model_extra["agent_session_id"], session)
    same("status after it", (await bench.control.get_session(name, session))["status"], "active")
    return "idle after two stops; active after an answer in the same session"


@operation("sessions.logs: what was, then what comes")
async def session_logs(bench: Bench) -> str:
    name = await bench.answering()
    session = (await bench.ask("sigma")).model_extra["agent_session_id"]
    rows = [json.loads(data) for data in await bench.control.logs(name, "1", session, "Sandbox ready")]
    same("fields", {tuple(row) for row in rows}, {("timestamp", "stream", "message")})
    same("first", (rows[0]["stream"], rows[0]["message"]), ("status", "Successfully connected to container"))
    true("nothing of what it wrote is there", any(row["stream"] == "stdout" and row["message"] for row in rows))
    for version, missing in (("7", session), ("1", "mine-" + MISSING)):
        try:
            await bench.control.logs(name, version, missing, "status")
        except Refused as error:
            same("status", error.status, 404)
        except ResourceNotFoundError:
            continue
        else:
            raise AssertionError("a log stream of what does not exist")
    return "connected, its lines, and when it was ready; 404 of another version's and of an unknown session"


@operation("sessions.delete: one, which is gone", "sessions.list")
async def delete_session(bench: Bench) -> str:
    name = await bench.answering()
    session = next(found for found in await bench.control.list_sessions(name) if found != bench.session)
    for _ in range(2):
        await bench.control.delete_session(name, session)
    await raises(bench.control.get_session(name, session), ResourceNotFoundError, 404, "not_found")
    true("it is still listed", session not in await bench.control.list_sessions(name))
    return "404 afterwards, not listed; a second delete is as good"


# Files of sessions


async def with_file(bench: Bench, content: bytes = b"a,b\n") -> tuple[str, str]:
    """The agent that answers, and a session of it whose home has `data/in.csv`."""
    name = await bench.answering()
    session = (await bench.ask("omega")).model_extra["agent_session_id"]
    written = await bench.control.upload_file(name, session, "data/in.csv", content)
    same("path and bytes", (written["path"], written["bytes_written"]), ("data/in.csv", len(content)))
    return name, session


@operation("sessions.files.upload: any bytes, in place of others")
async def upload_file(bench: Bench) -> str:
    await with_file(bench, b"old")
    name, session = await with_file(bench, bytes(range(256)))
    found = await bench.control.download_file(name, session, "data/in.csv")
    same("what is there", found, bytes(range(256)))
    await raises(bench.control.upload_file(name, session, "data", b"x"), ResourceExistsError, 409)
    await raises(bench.control.upload_file(name, session, "../x", b"x"), HttpResponseError, 400)
    return "path and bytes_written; read back; 409 over a directory; 400 out of the home"


@operation("sessions.files.download: what was uploaded", "sessions.files.upload")
async def download_file(bench: Bench) -> str:
    name, session = await with_file(bench)
    for path in ("data/in.csv", "/data/in.csv", "/home/session/data/in.csv"):
        same(path, await bench.control.download_file(name, session, path), b"a,b\n")
    missing = bench.control.download_file(name, session, "data/none")
    await raises(missing, ResourceNotFoundError, 404, "not_found")
    return "by each spelling of the path; 404 of one that is not there"


@operation("sessions.files.list: a directory, page by page", "sessions.files.upload")
async def list_files(bench: Bench) -> str:
    name, session = await with_file(bench)
    for number in range(3):
        await bench.control.upload_file(name, session, f"listed/{number}", b"12345")
    (directory,) = [entry for entry in await bench.control.list_files(name, session) if entry["name"] == "data"]
    same("a directory", (directory["is_directory"], directory["size"]), (True, 0))
    found = await bench.control.list_files(name, session, "listed", limit=1)
    same("names and sizes", [(entry["name"], entry["size"]) for entry in found], [("0", 5), ("1", 5), ("2", 5)])
    true("no time", found[0]["modified_time"])
    missing = bench.control.list_files(name, session, "none")
    await raises(missing, ResourceNotFoundError, 404, "not_found")
    return "names, sizes, times, which is a directory; 404 of one that is not there"


@operation("sessions.files.delete: a file, then its directory", "sessions.files.list")
async def delete_file(bench: Bench) -> str:
    name, session = await with_file(bench)
    await bench.control.upload_file(name, session, "data/more.csv", b"")
    await bench.control.delete_file(name, session, "data/in.csv")
    same(
        "what is left", [entry["name"] for entry in await bench.control.list_files(name, session, "data")], ["more.csv"]
    )
    await raises(bench.control.delete_file(name, session, "data"), ResourceExistsError, 409, "conflict")
    await bench.control.delete_file(name, session, "data", recursive=True)
    again = bench.control.delete_file(name, session, "data", recursive=True)
    await raises(again, ResourceNotFoundError, 404, "not_found")
    return "gone; 409 of a directory that is not empty, but recursively; 404 afterwards"


# Conversations


@operation("conversations.create: with items and metadata", "conversations.items.list", fields="conversation.items")
async def create_conversation(bench: Bench) -> str:
    items = [{"type": "message", "role": "user", "content": "hi"}]
    made = await call(bench.client.conversations.create(items=items, metadata={"k": "v"}))
    true(f"its id is {made.id}", made.id.startswith("conv_"))
    same("object and metadata", (made.object, made.metadata), ("conversation", {"k": "v"}))
    true("created_at is no time of now", abs(made.created_at - time.time()) < 10)
    found = await collect(await call(bench.client.conversations.items.list(made.id)))
    same("items", [(item.role, item.content[0].text) for item in found], [("user", "hi")])
    return "id, object, metadata, created_at, its first item"


@operation("conversations.retrieve: what was made")
async def retrieve_conversation(bench: Bench) -> str:
    made = await call(bench.client.conversations.create(metadata={"k": "v"}))
    found = await call(bench.client.conversations.retrieve(made.id))
    same("conversation", found.model_dump(), made.model_dump())
    missing = "conv_" + MISSING
    await raises(asked(lambda: bench.client.conversations.retrieve(missing)), openai.NotFoundError, 404, "not_found")
    return "the same again; 404 of an unknown one"


@operation("conversations.update: its metadata")
async def update_conversation(bench: Bench) -> str:
    made = await call(bench.client.conversations.create(metadata={"k": "v"}))
    updated = await call(bench.client.conversations.update(made.id, metadata={"k": "w", "l": "x"}))
    same("reply", (updated.id, updated.metadata), (made.id, {"k": "w", "l": "x"}))
    found = await call(bench.client.conversations.retrieve(made.id))
    same("read back", found.metadata, {"k": "w", "l": "x"})
    return "in the reply and when read back"


@operation("conversations.delete: one, which is gone")
async def delete_conversation(bench: Bench) -> str:
    made = await call(bench.client.conversations.create())
    deleted = await call(bench.client.conversations.delete(made.id))
    same("reply", (deleted.id, deleted.object, deleted.deleted), (made.id, "conversation.deleted", True))
    await raises(asked(lambda: bench.client.conversations.retrieve(made.id)), openai.NotFoundError, 404, "not_found")
    return "the reply, and 404 afterwards"


@operation("conversations.items.create: several at once")
async def create_items(bench: Bench) -> str:
    conversation, made = await with_items(bench, "one", "two")
    same("texts", [item.content[0].text for item in made.data], ["one", "two"])
    true("items without ids", all(item.id for item in made.data))
    attempt = asked(lambda: bench.client.conversations.items.create(conversation, items=[]))
    await raises(attempt, openai.BadRequestError, 400)
    return "texts and ids in order; 400 for none"


@operation("conversations.items.list: pages in either order")
async def list_items(bench: Bench) -> str:
    conversation, made = await with_items(bench, "one", "two", "three")
    ids = [item.id for item in made.data]
    listing = bench.client.conversations.items.list
    ascending = await collect(await call(listing(conversation, order="asc", limit=2)))
    same("ascending", [item.id for item in ascending], ids)
    descending = await collect(await call(listing(conversation, limit=1)))
    same("descending", [item.id for item in descending], ids[::-1])
    rest = await collect(await call(listing(conversation, order="asc", after=ids[0])))
    same("after the first", [item.id for item in rest], ids[1:])
    return "pages of 2 and 1, either order, after"


@operation("conversations.items.retrieve: one of two")
async def retrieve_item(bench: Bench) -> str:
    conversation, made = await with_items(bench, "one", "two")
    client = bench.client.conversations.items
    found = await call(client.retrieve(made.data[1].id, conversation_id=conversation))
    same("item", (found.id, found.content[0].text), (made.data[1].id, "two"))
    attempt = asked(lambda: client.retrieve("msg_" + MISSING, conversation_id=conversation))
    await raises(attempt, openai.NotFoundError, 404, "not_found")
    return "id and text; 404 of an unknown one"


@operation("conversations.items.delete: one of two")
async def delete_item(bench: Bench) -> str:
    conversation, made = await with_items(bench, "one", "two")
    client = bench.client.conversations.items
    reply = await call(client.delete(made.data[0].id, conversation_id=conversation))
    same("reply", (reply.id, reply.object), (conversation, "conversation"))
    left = await collect(await call(client.list(conversation)))
    same("left", [item.id for item in left], [made.data[1].id])
    return "the conversation is the reply; the other item is left"


async def with_items(bench: Bench, *texts: str) -> tuple[str, Any]:
    """A conversation's id, and the reply to adding these texts."""
    conversation = await call(bench.client.conversations.create())
    items = [{"type": "message", "role": "user", "content": text} for text in texts]
    return conversation.id, await call(bench.client.conversations.items.create(conversation.id, items=items))


# At the end, since the agent that answers goes


@operation("agents.delete_version: with active sessions")
async def delete_active_version(bench: Bench) -> str:
    name = await bench.answering()
    await bench.ask("tau")
    await raises(bench.control.delete_version(name, "1"), ResourceExistsError, 409)
    true("it does not answer any more", "You said: tau" in (await bench.ask("tau")).output_text)
    return "409, and the version still answers"


@operation("agents.delete: with active sessions, then by force")
async def delete_active_agent(bench: Bench) -> str:
    name = await bench.answering()
    await bench.ask("upsilon")
    await raises(bench.control.delete(name), ResourceExistsError, 409)
    same("deleted", (await bench.control.delete(name, force=True))["deleted"], True)
    await raises(bench.control.get(name), ResourceNotFoundError, 404, "not_found")
    bench.talker = bench.session = None
    return "409; gone by force"


async def catalogue(sdk: Sdk, arguments: list[str]) -> list[dict[str, Any]]:
    (folder,) = arguments
    client = await sdk.enter(sdk.project.get_openai_client())
    bench = Bench(sdk, Control(sdk), Path(folder), client)
    try:
        return [await result(bench, *entry) for entry in ENTRIES]
    finally:
        for name in bench.made:
            try:
                await bench.control.delete(name, force=True)
            except ResourceNotFoundError:
                continue


async def result(bench: Bench, title: str, shows: tuple[str, ...], entry: Entry) -> dict[str, Any]:
    bench.control.ways.clear()
    began = time.monotonic()
    found: dict[str, Any] = {"operation": title, "shows": shows, "state": "ok", "reason": "", "checked": ""}
    try:
        found["checked"] = await entry(bench)
    except NotHere as missing:
        found.update(state="n/a", reason=str(missing))
    except Exception:
        found.update(state="failed", reason=traceback.format_exc())
    return {**found, "ways": sorted(bench.control.ways), "seconds": round(time.monotonic() - began, 2)}


if __name__ == "__main__":
    main(catalogue)
