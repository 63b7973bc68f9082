"""Domain objects for tests: any at all (hypothesis), or a plain one with a few fields named."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from cupola.agents import (
    Agent,
    AgentVersion,
    CodeConfiguration,
    Definition,
    Failure,
    Phase,
    Probe,
    ProtocolVersion,
    VersionRule,
    VersionStatus,
)
from cupola.conversations import Conversation, StoredResponse
from cupola.sessions import Desired, Invocation, Observed, Sandbox, Session
from cupola.snapshots import Snapshot, SnapshotState
from cupola.state import StateItem, StateStore

PROJECT = "demo"
AGENT = "greeter"
USER = "user-a"


def agent(name: str = AGENT, project: str = PROJECT, **fields: Any) -> Agent:
    return Agent(project=project, name=name, guid=f"guid-{name}", created_at=1.0, **fields)


def version(number: str = "1", agent: str = AGENT, project: str = PROJECT, **fields: Any) -> AgentVersion:
    definition = fields.pop("definition", Definition(image="registry/image:1", code=None, protocols=()))
    return AgentVersion(project=project, agent=agent, version=number, definition=definition, created_at=1.0, **fields)


def code(sha256: str) -> Definition:
    return Definition(None, CodeConfiguration("python_3_11", ("python", "main.py"), "bundled", sha256), ())


def session(id: str = "s1", agent: str = AGENT, project: str = PROJECT, **fields: Any) -> Session:
    return Session(
        **{
            "project": project,
            "agent": agent,
            "id": id,
            "guid": f"guid-{id}",
            "version": "1",
            "caller": USER,
            "home": f"home-{id}",
            "created_at": 1.0,
            "last_accessed_at": 1.0,
            **fields,
        }
    )


def snapshot(id: str = "snap-1", session: str = "s1", **fields: Any) -> Snapshot:
    return Snapshot(
        **{
            "project": PROJECT,
            "agent": AGENT,
            "session": session,
            "id": id,
            "version": "1",
            "caller": USER,
            "driver": "fake",
            "home": f"home-{id}",
            "created_at": 1.0,
            "state": SnapshotState.READY,
            **fields,
        }
    )


def state_store(name: str = "notes", agent: str = AGENT, project: str = PROJECT, **fields: Any) -> StateStore:
    return StateStore(project, agent, name, f"ss_{name}", created_at=1.0, updated_at=1.0, **fields)


def state_item(key: str = "k", **fields: Any) -> StateItem:
    return StateItem(
        **{
            "key": key,
            "id": f"it_{key}",
            "value": {"n": 1},
            "etag": '"e1"',
            "created_at": 1.0,
            "updated_at": 1.0,
            **fields,
        }
    )


def sandbox(id: str = "sbx-1", session: str | None = "s1", **fields: Any) -> Sandbox:
    return Sandbox(
        **{
            "id": id,
            "project": PROJECT,
            "agent": AGENT,
            "version": "1",
            "driver": "fake",
            "session_id": session or "minted",
            "session_guid": "guid",
            "home": "home",
            "created_at": 1.0,
            "session": session,
            **fields,
        }
    )


def invocation(id: str = "inv_1", **fields: Any) -> Invocation:
    named = {"project": PROJECT, "agent": AGENT, "session": "s1", "user": USER, "created_at": 1.0}
    return Invocation(**{"id": id, **named, **fields})


def conversation(id: str = "conv_1", project: str = PROJECT, **fields: Any) -> Conversation:
    return Conversation(project=project, id=id, user=USER, created_at=1.0, **fields)


def response(
    id: str = "caresp_1", status: str = "in_progress", output: tuple[str, ...] = (), **fields: Any
) -> StoredResponse:
    body = {"id": id, "status": status, "output": [item(o) for o in output]}
    return StoredResponse(
        **{
            "project": PROJECT,
            "id": id,
            "user": USER,
            "agent": AGENT,
            "session": "s1",
            "body": body,
            "created_at": 1.0,
            **fields,
        }
    )


def item(id: str, text: str = "hello") -> dict[str, Any]:
    return {"id": id, "type": "message", "content": [{"type": "output_text", "text": text}]}


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_names = st.text("abcxyz019-", min_size=1, max_size=12)
_times = st.floats(0, 4e9)
_numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)
_objects = st.dictionaries(_text, _json, max_size=3)
_strings = st.dictionaries(_text, _text, max_size=3)


def _tuples(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(of, max_size=3).map(tuple)


failures = st.builds(
    Failure,
    phase=st.sampled_from(Phase),
    code=_text,
    message=_text,
    exit_code=st.none() | st.integers(-255, 255),
    probes=_tuples(st.builds(Probe, _times, _text)),
    log=_tuples(_text),
    details=_tuples(_objects),
)
definitions = st.builds(
    Definition,
    image=st.none() | _text,
    code=st.none() | st.builds(CodeConfiguration, _text, _tuples(_text), _text, _names),
    protocols=_tuples(st.builds(ProtocolVersion, _text, _text)),
    cpu=st.floats(0.25, 4),
    memory=st.integers(1, 2**40),
    environment=_strings,
    tools=_tuples(_objects),
    idle_timeout=st.none() | st.integers(1, 14400),
    spelling=_objects,
)
agents = st.builds(
    Agent,
    project=_names,
    name=_names,
    guid=_text,
    created_at=_times,
    last_number=st.integers(0, 10**6),
    enabled=st.booleans(),
    rules=_tuples(st.builds(VersionRule, _names, st.integers(0, 100))),
    endpoint=_objects,
    card=st.none() | _objects,
)
versions = st.builds(
    AgentVersion,
    project=_names,
    agent=_names,
    version=_names,
    definition=definitions,
    created_at=_times,
    status=st.sampled_from(VersionStatus),
    phase=st.none() | st.sampled_from(Phase),
    failure=st.none() | failures,
    description=st.none() | _text,
    metadata=_strings,
    draft=st.booleans(),
    warnings=_tuples(_text),
)
sessions = st.builds(
    Session,
    project=_names,
    agent=_names,
    id=_names,
    guid=_text,
    version=_names,
    caller=_text,
    home=_text,
    created_at=_times,
    last_accessed_at=_times,
    stopped_at=st.none() | _times,
    desired=st.sampled_from(Desired),
    observed=st.sampled_from(Observed),
    failure=st.none() | failures,
)
sandboxes = st.builds(
    Sandbox,
    id=_names,
    project=_names,
    agent=_names,
    version=_names,
    driver=_text,
    session_id=_text,
    session_guid=_text,
    home=_text,
    created_at=_times,
    session=st.none() | _names,
    handle=st.none() | _objects,
    observed=st.sampled_from(Observed),
)
conversations = st.builds(Conversation, project=_names, id=_names, user=_text, created_at=_times, metadata=_strings)
responses = st.builds(
    StoredResponse,
    project=_names,
    id=_names,
    user=_text,
    agent=_names,
    session=st.none() | _names,
    body=_objects,
    created_at=_times,
    conversation=st.none() | _names,
    input_item_ids=_tuples(_names),
    history_item_ids=_tuples(_names),
    background=st.booleans(),
)
_tags = st.none() | st.dictionaries(_text, _text, min_size=1, max_size=3)
state_stores = st.builds(
    StateStore,
    project=_names,
    agent=_names,
    name=_text,
    id=_names,
    created_at=_times,
    updated_at=_times,
    user_isolation=st.booleans(),
    item_ttl_seconds=st.just(-1) | st.integers(1, 2**31 - 1),
    description=st.none() | _text,
    tags=_tags,
)
state_items = st.builds(
    StateItem,
    key=_text,
    id=_names,
    value=_objects,
    etag=_text,
    created_at=_times,
    updated_at=_times,
    expires_at=st.none() | st.floats(5e9, 6e9),
    tags=_tags,
)
