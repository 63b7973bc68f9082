"""Requests that cannot be, over the whole wire of the clients: each has its status, code, field and sentence.

One platform serves them all, and nothing in its store or on its disk may differ after any of them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Connection, func, select

from cupola.drivers.fake import Behaviour
from cupola.errors import StartFailed
from cupola.store.tables import metadata as tables
from tests.support.agents import ECHO
from tests.support.multipart import DEFINITION as CODE
from tests.support.multipart import Part, as_azd, as_sync_sdk, code_zip, encoded, metadata
from tests.support.platform import DEFINITION, OPENAI, PROJECT, Caller, PlatformUnderTest, open_platform

AGENTS = f"{PROJECT}/agents"
A1 = f"{AGENTS}/a1"
NEW = f"{AGENTS}/new/versions"
PROJECT_OPENAI = f"{PROJECT}/openai/v1"
INVOCATIONS = f"{A1}/endpoint/protocols/invocations"
USED = f"{AGENTS}/busy/endpoint/sessions/used/files"
TOKEN = "ghp_" + "a1B2" * 9


@dataclass(frozen=True, slots=True)
class Bad:
    """A request, and how it is refused. `said` stands in the sentence; `said_not` must not."""

    method: str
    path: str
    status: int
    code: str
    param: str | None
    said: str
    body: Any = None
    raw: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    said_not: str | None = None

    def __str__(self) -> str:
        path = self.path.replace(PROJECT, "").replace("/", "-")[:40]
        return f"{self.method}{path}:{self.said[:30]}"


def defined(param: str, said: str, code: str = "invalid_payload", *, hides: str | None = None, **fields: Any) -> Bad:
    """A new version whose definition has these fields; None takes one away."""
    definition = {name: value for name, value in {**DEFINITION, **fields}.items() if value is not None}
    body = {"definition": definition}
    return Bad("POST", NEW, 400, code, f"definition.{param}", said, body, said_not=hides)


def posted(param: str | None, said: str, code: str = "invalid_payload", **fields: Any) -> Bad:
    """A new version whose body has these fields beside the definition."""
    return Bad("POST", NEW, 400, code, param, said, {"definition": DEFINITION, **fields})


def created(param: str | None, said: str, code: str = "bad_request", status: int = 400, **fields: Any) -> Bad:
    return Bad("POST", AGENTS, status, code, param, said, {"name": "new", "definition": DEFINITION, **fields})


def patched(param: str, said: str, code: str = "bad_request", **fields: Any) -> Bad:
    return Bad("PATCH", A1, 400, code, param, said, fields)


def routed(suffix: str, said: str, *rules: Any) -> Bad:
    """A version selector."""
    param = f"agent_endpoint.version_selector.version_selection_rules{suffix}"
    return patched(param, said, agent_endpoint={"version_selector": {"version_selection_rules": list(rules)}})


def rule(version: Any, percentage: Any, kind: Any = "FixedRatio") -> dict[str, Any]:
    return {"type": kind, "agent_version": version, "traffic_percentage": percentage}


def uploaded(
    param: str | None, said: str, parts: Sequence[Part], code: str = "bad_request", *, sha256: str | None = None
) -> Bad:
    upload = encoded(parts, sha256=sha256)
    return Bad("POST", NEW, 400, code, param, said, raw=upload["raw"], headers=upload["headers"])


def zipped(said: str, package: bytes) -> Bad:
    """A code deployment with this zip."""
    return uploaded("code", said, as_azd(package))


def packed(*entries: tuple[zipfile.ZipInfo | str, bytes], encrypted: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
            archive.infolist()[-1].flag_bits |= 1 if encrypted else 0
    return buffer.getvalue()


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("main.py")
    entry.external_attr = 0o120777 << 16
    return entry


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("main.py", b"\0" * (80 * 1024**2))
    return buffer.getvalue()


def asked(param: str | None, said: str, code: str = "bad_request", status: int = 400, **fields: Any) -> Bad:
    """A response of the agent a1."""
    return Bad("POST", f"{OPENAI}/responses", status, code, param, said, {"input": "hi", **fields})


def raw(path: str, said: str, content: bytes, method: str = "POST", **headers: str) -> Bad:
    return Bad(method, path, 400, "invalid_payload", None, said, raw=content, headers=headers)


def pathless(method: str, address: str, said: str, body: Any = None, *, code: str = "bad_request") -> Bad:
    """A path of the session in use that no file can have."""
    return Bad(method, USED + address, 400, code, "path", said, body)


def unserved(method: str, path: str) -> Bad:
    """Operations of the wire that are told apart from addresses that do not exist."""
    return Bad(method, path, 501, "not_implemented", None, "does not serve", {} if method == "POST" else None)


def absent(method: str, path: str, param: str, said: str) -> Bad:
    return Bad(method, path, 404, "not_found", param, said)


def unsupported(method: str, path: str, status: int = 405) -> Bad:
    return Bad(method, path, status, "UnsupportedAction", None, "is not supported")


CODE_CONFIGURATION = CODE["code_configuration"]
CODED: Mapping[str, Any] = {"container_configuration": None}
RESPONSES = {"protocol": "responses", "version": "2.0.0"}
NESTED = b'{"definition":' + b'{"a":' * 150 + b"1" + b"}" * 151

NAMES = [
    created("agent_name", "1 to 63 letters", name="not_allowed"),
    created("agent_name", "1 to 63 letters", name="-a"),
    created("agent_name", "...'", name="a" * 64),
    created("agent_name", "1 to 63 letters", name=""),
    created("name", "must be a text", name=5),
    created("name", "must be a text", name=["new"]),
    created("name", "is missing", name=None),
    created("name", "already exists", "conflict", 409, name="a1"),
    Bad("POST", f"{AGENTS}/no%00t/versions", 400, "bad_request", "agent_name", "1 to 63", {"definition": DEFINITION}),
    Bad("POST", f"{AGENTS}/{'a' * 64}/versions", 400, "bad_request", "agent_name", "1 to 63", {"definition": {}}),
    Bad(
        "POST",
        AGENTS,
        400,
        "bad_request",
        "name",
        "send one name",
        {"name": "new", "definition": DEFINITION},
        headers={"x-ms-agent-name": "other"},
    ),
]

BODIES = [
    raw(NEW, "not valid JSON", b"{"),
    raw(NEW, "not valid JSON", b'{"definition": NaN}'),
    raw(NEW, "infinity", b'{"definition": {"cpu": 1e999}}'),
    raw(NEW, "not valid UTF-8", b'{"description": "\xff\xfe"}'),
    raw(NEW, "surrogate", b'{"description": "\\ud800"}'),
    raw(NEW, "within each other", NESTED),
    raw(NEW, "depth limit", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    raw(NEW, "a list of 1", b"[1]"),
    raw(NEW, "must be a JSON object; it is null", b"null"),
    raw(NEW, "must be a JSON object", b'"text"'),
    raw(NEW, "not valid JSON", b"definition=x", **{"content-type": "application/x-www-form-urlencoded"}),
    raw(NEW, "not valid JSON", b"<a/>", **{"content-type": "application/xml"}),
    raw(NEW, "not valid JSON", b"\x1f\x8b\x08\x00", **{"content-encoding": "gzip"}),
    raw(NEW, "not valid JSON", '{"definition": {}}'.encode("utf-16")),
    raw(A1, "not valid JSON", b"{'agent_card': null}", "PATCH", **{"content-type": "application/merge-patch+json"}),
    raw(A1, "a list of 1", b'[{"op": "remove"}]', "PATCH", **{"content-type": "application/json-patch+json"}),
    Bad("POST", NEW, 400, "invalid_payload", "definition", "required", raw=b""),
    posted("definition", "dictionary", definition="x"),
    posted("definition", "dictionary", definition=None),
    posted("definition.kind", "required", definition={}),
    posted("description", "string", description=5),
    posted("description", "NUL", description="a\0b"),
    posted("draft", "boolean", draft="true"),
    posted("draft", "boolean", draft=1),
    posted("metadata", "at most 16", metadata={f"k{n}": "v" for n in range(17)}),
    posted("metadata", "dictionary", metadata=["k"]),
    posted("metadata.k", "at most 512", metadata={"k": "v" * 513}),
    posted("metadata.k", "string", metadata={"k": 5}),
    posted("metadata.k", "string", metadata={"k": {"nested": "v"}}),
    posted(f"metadata.{'k' * 65}", "at most 64", metadata={"k" * 65: "v"}),
    posted("blueprint_reference", "dictionary", blueprint_reference="b"),
    posted("digital_worker_type", "string", digital_worker_type=["m365"]),
]

DEFINITIONS = [
    defined("kind", "must be 'hosted'", "bad_request", kind="prompt"),
    defined("kind", "must be 'hosted'", "bad_request", kind="workflow", cpu="x"),
    defined("kind", "string", kind=5),
    defined("cpu", "'8'; it must be a number of vCPUs from 0.5 to 4", "bad_request", cpu="8"),
    defined("cpu", "valid resource tier", "bad_request", cpu="0.25"),
    defined("cpu", "valid resource tier", "bad_request", cpu="-1"),
    defined("cpu", "valid resource tier", "bad_request", cpu="1e0"),
    defined("cpu", "valid resource tier", "bad_request", cpu="1_0"),
    defined("cpu", "valid resource tier", "bad_request", cpu="nan"),
    defined("cpu", "...'", "bad_request", cpu="9" * 5000),
    defined("cpu", "string", cpu={"cores": 1}),
    defined("cpu", "string", cpu=True),
    defined("memory", "'16Gi'; it must be from 1Gi to 8Gi", "bad_request", memory="16Gi"),
    defined("memory", "from 1Gi to 8Gi", "bad_request", memory="512Mi"),
    defined("memory", "from 1Gi to 8Gi", "bad_request", memory="2"),
    defined("memory", "from 1Gi to 8Gi", "bad_request", memory="2GB"),
    defined("memory", "from 1Gi to 8Gi", "bad_request", memory="9" * 400 + "Gi"),
    defined("memory", "from 1Gi to 8Gi", "bad_request", memory="٢Gi"),
    defined("container_configuration", "exactly one", "bad_request", container_configuration=None),
    defined("container_configuration", "exactly one", "bad_request", code_configuration=CODE_CONFIGURATION),
    defined("container_configuration", "dictionary", container_configuration="agent:1"),
    defined("container_configuration.image", "malformed", "bad_request", container_configuration={"image": "A:1"}),
    defined("container_configuration.image", "malformed", "bad_request", container_configuration={"image": ""}),
    defined("container_configuration.image", "malformed", "bad_request", container_configuration={"image": "a" * 256}),
    defined(
        "container_configuration.image", "malformed", "bad_request", container_configuration={"image": "a@sha256:12"}
    ),
    defined("container_configuration.image", "string", container_configuration={"image": 5}),
    defined(
        "container_configuration.registry_connection_id",
        "string",
        container_configuration={"image": "agent:1", "registry_connection_id": {}},
    ),
    defined("image", "different images", "bad_request", image="agent:2"),
    defined("code_configuration", "multipart/form-data", "bad_request", **CODED, code_configuration=CODE_CONFIGURATION),
    defined("code_configuration.entry_point", "list", **CODED, code_configuration={"runtime": "p", "entry_point": "x"}),
    defined(
        "code_configuration.entry_point.0", "NUL", **CODED, code_configuration={"runtime": "p", "entry_point": ["a\0"]}
    ),
    defined("code_configuration.runtime", "required", **CODED, code_configuration={"entry_point": ["main.py"]}),
    defined(
        "protocol_versions.0.protocol", "must be one of responses", "bad_request", protocol_versions=[{"protocol": "x"}]
    ),
    defined("protocol_versions.0.protocol", "string", protocol_versions=[{"protocol": 5}]),
    defined("protocol_versions.0", "dictionary", protocol_versions=["responses"]),
    defined("protocol_versions", "list", protocol_versions=RESPONSES),
    defined(
        "protocol_versions.0.version",
        "Please use one of v1, 1.0.0, 2.0.0",
        "bad_request",
        protocol_versions=[{"protocol": "responses", "version": "v2"}],
    ),
    defined(
        "protocol_versions.1.version",
        "declare one",
        "bad_request",
        protocol_versions=[RESPONSES, {"protocol": "responses", "version": "1.0.0"}],
    ),
    defined(
        "container_protocol_versions",
        "list different protocols",
        "bad_request",
        container_protocol_versions=[{"protocol": "responses", "version": "v1"}],
    ),
    defined("environment_variables", "dictionary", environment_variables=["A=1"]),
    defined("environment_variables.A", "string", environment_variables={"A": 1234567}, hides="1234567"),
    defined("environment_variables.1A", "letters, digits", "bad_request", environment_variables={"1A": "x"}),
    defined("environment_variables.", "letters, digits", "bad_request", environment_variables={"": "x"}),
    defined("environment_variables.A=B", "letters, digits", "bad_request", environment_variables={"A=B": "x"}),
    defined("environment_variables.FOUNDRY_X", "reserved", "bad_request", environment_variables={"FOUNDRY_X": "x"}),
    defined("environment_variables.AGENT_ID", "reserved", "bad_request", environment_variables={"AGENT_ID": "x"}),
    defined("environment_variables.A", "NUL", "bad_request", environment_variables={"A": "secret\0"}, hides="secret"),
    defined("environment_variables.A", "bytes", "bad_request", environment_variables={"A": "x" * 200_000}, hides="xxx"),
    defined(
        "environment_variables",
        "in all",
        "bad_request",
        environment_variables={f"A{n}": "x" * 100_000 for n in range(11)},
    ),
    defined("tools", "at most 128", tools=[{"type": "code_interpreter"}] * 129),
    defined("tools", "list", tools={"type": "mcp"}),
    defined("tools.0", "dictionary", tools=["mcp"]),
    defined("tools.1.type", "required", tools=[{"type": "mcp"}, {"server_label": "x"}]),
    defined("tools.0.type", "string", tools=[{"type": 5}]),
    defined(
        "session_configuration.idle_timeout_seconds",
        "greater than or equal to 120. It is 119",
        session_configuration={"idle_timeout_seconds": 119},
    ),
    defined(
        "session_configuration.idle_timeout_seconds", "14400", session_configuration={"idle_timeout_seconds": 10**18}
    ),
    defined(
        "session_configuration.idle_timeout_seconds", "integer", session_configuration={"idle_timeout_seconds": "PT10M"}
    ),
    defined("rai_config.rai_policy_name", "required", rai_config={}),
    defined("rai_config", "dictionary", rai_config="policy"),
    defined("telemetry_config.endpoints", "list", telemetry_config={"endpoints": "https://otel"}),
    defined("telemetry_config.endpoints.0.kind", "required", telemetry_config={"endpoints": [{}]}),
    defined("enable_memory_snapshot", "boolean", enable_memory_snapshot="yes"),
    defined("cpu", "looks like a secret", "bad_request", cpu=TOKEN, hides=TOKEN),
]

ENDPOINTS = [
    patched("agent_endpoint", "must be an object", agent_endpoint="x"),
    patched("agent_endpoint", "a list of 1", agent_endpoint=["x"]),
    patched("agent_card", "must be an object", agent_card=5),
    patched("agent_card.version", "required", "invalid_payload", agent_card={"skills": []}),
    patched("agent_card.skills", "required", "invalid_payload", agent_card={"version": "1"}),
    patched(
        "agent_card.skills.0.name", "required", "invalid_payload", agent_card={"version": "1", "skills": [{"id": "a"}]}
    ),
    patched(
        "agent_endpoint.authorization_schemes.0.type",
        "'Entra', 'BotService', 'BotServiceRbac' or 'BotServiceTenant'",
        "invalid_payload",
        agent_endpoint={"authorization_schemes": [{"type": "ApiKey"}]},
    ),
    patched(
        "agent_endpoint.authorization_schemes.0.isolation_key_source.kind",
        "'Entra' or 'Header'",
        "invalid_payload",
        agent_endpoint={"authorization_schemes": [{"type": "Entra", "isolation_key_source": {"kind": "Cookie"}}]},
    ),
    patched(
        "agent_endpoint.authorization_schemes",
        "list",
        "invalid_payload",
        agent_endpoint={"authorization_schemes": {"type": "Entra"}},
    ),
    patched(
        "agent_endpoint.protocol_configuration.soap",
        "one of responses",
        agent_endpoint={"protocol_configuration": {"soap": {}}},
    ),
    patched(
        "agent_endpoint.protocol_configuration.a2a",
        "dictionary",
        "invalid_payload",
        agent_endpoint={"protocol_configuration": {"a2a": True}},
    ),
    patched("agent_endpoint.protocols.1", "one of", agent_endpoint={"protocols": ["responses", "soap"]}),
    patched("agent_endpoint.protocols", "list", "invalid_payload", agent_endpoint={"protocols": "responses"}),
    patched(
        "agent_endpoint.protocols",
        "different protocols",
        agent_endpoint={"protocols": ["responses"], "protocol_configuration": {"a2a": {}}},
    ),
    patched("agent_endpoint.version_selector", "must be an object", agent_endpoint={"version_selector": []}),
    routed("", "add up to 50", rule("1", 50)),
    routed("", "add up to 110", rule("1", 100), rule("@latest", 10)),
    routed(".0.traffic_percentage", "from 0 to 100", rule("1", 101)),
    routed(".0.traffic_percentage", "99.5", rule("1", 99.5)),
    routed(".0.traffic_percentage", "null", rule("1", None)),
    routed(".0.traffic_percentage", "true", rule("1", True)),
    routed(".0.agent_version", 'such as "1"', rule(1, 100)),
    routed(".0.type", "only type is FixedRatio", rule("1", 100, "Random")),
    routed(".0", "a rule", "1"),
    routed(".1.agent_version", "no version '9'", rule("1", 90), rule("9", 10)),
    routed(".0.agent_version", "is failed", rule("2", 100)),
    routed(".0.agent_version", "is a draft", rule("draft-1700000000000", 100)),
    Bad("PATCH", f"{AGENTS}/none", 404, "not_found", "agent_name", "does not exist", {}),
    created("agent_endpoint", "must be an object", agent_endpoint="x"),
    created(
        "agent_endpoint.version_selector.version_selection_rules.0.agent_version",
        "no version '7'",
        agent_endpoint={"version_selector": {"version_selection_rules": [rule("7", 100)]}},
    ),
    created("agent_card.version", "required", "invalid_payload", agent_card={"skills": []}),
    Bad(
        "POST",
        A1,
        400,
        "bad_request",
        "agent_endpoint.protocols.0",
        "one of",
        {"definition": {**DEFINITION, "cpu": "2"}, "agent_endpoint": {"protocols": ["soap"]}},
    ),
    Bad("POST", f"{AGENTS}/none", 404, "not_found", "agent_name", "does not exist", {"definition": DEFINITION}),
]

ZIPS = [
    zipped("not a zip", b"this is no zip"),
    zipped("not a zip", b""),
    zipped("not a zip", code_zip()[:-30]),
    zipped("holds no files", packed()),
    zipped("leads out of it", packed(("../main.py", b"x"))),
    zipped("leads out of it", packed(("/etc/passwd", b"x"))),
    zipped("leads out of it", packed(("C:/main.py", b"x"))),
    zipped("separate folders with '/'", packed(("a\\main.py", b"x"))),
    zipped("a link or device", packed((link(), b"/etc/passwd"))),
    zipped("without a password", packed(("main.py", b"x"), encrypted=True)),
    zipped("times its size", bomb()),
    zipped("within a file of that name", packed(("a", b"x"), ("a/main.py", b"x"))),
    zipped("shorter names", packed(("a" * 300 + ".py", b"x"))),
    uploaded("code", "lacks the part 'code'", [Part("metadata", metadata())]),
    uploaded("code", "a part with a filename", [Part("metadata", metadata()), Part("code", code_zip())]),
    uploaded("metadata", "lacks the part 'metadata'", [Part("code", code_zip(), "a.zip")]),
    uploaded("code", "more than once", [*as_azd(code_zip()), Part("code", code_zip(), "b.zip")]),
    uploaded("metadata", "more than once", [*as_azd(code_zip()), Part("metadata", metadata())]),
    uploaded("metadata", "'metadata' is not valid JSON", as_sync_sdk(code_zip(), b"{"), "invalid_payload"),
    uploaded("metadata", "a list of 0", as_sync_sdk(code_zip(), b"[]"), "invalid_payload"),
    uploaded("metadata", "within each other", as_sync_sdk(code_zip(), NESTED), "invalid_payload"),
    uploaded("definition", "required", as_sync_sdk(code_zip(), b"{}"), "invalid_payload"),
    uploaded("definition", "names an image", as_sync_sdk(code_zip(), metadata(DEFINITION))),
    uploaded("definition.cpu", "valid resource tier", as_sync_sdk(code_zip(), metadata({**CODE, "cpu": "9"}))),
    uploaded("x-ms-code-zip-sha256", "damaged on the way", as_azd(code_zip()), sha256="00" * 32),
    uploaded("x-ms-code-zip-sha256", "'no hash'", as_azd(code_zip()), sha256="no hash"),
    Bad(
        "POST", NEW, 400, "invalid_payload", None, "boundary", raw=b"x", headers={"content-type": "multipart/form-data"}
    ),
    Bad(
        "POST",
        NEW,
        400,
        "bad_request",
        "metadata",
        "lacks the part",
        raw=encoded(as_azd(code_zip()))["raw"][:60],
        headers=encoded(as_azd(code_zip()))["headers"],
    ),
    Bad(
        "POST",
        AGENTS,
        400,
        "bad_request",
        "name",
        "is missing",
        raw=encoded(as_azd(code_zip()))["raw"],
        headers=encoded(as_azd(code_zip()))["headers"],
    ),
    Bad(
        "POST",
        NEW,
        413,
        "payload_too_large",
        "code",
        "250 MB",
        raw=b"",
        headers={**encoded([])["headers"], "content-length": "300000000"},
    ),
]

READS = [
    Bad("GET", f"{AGENTS}?limit=0", 400, "bad_request", "limit", "'0'; it must be a number from 1 to 100"),
    Bad("GET", f"{AGENTS}?limit=101", 400, "bad_request", "limit", "from 1 to 100"),
    Bad("GET", f"{AGENTS}?limit=ten", 400, "bad_request", "limit", "'ten'"),
    Bad("GET", f"{AGENTS}?limit={'9' * 3000}", 400, "bad_request", "limit", "...'"),
    Bad("GET", f"{AGENTS}?order=newest", 400, "bad_request", "order", "asc or desc"),
    Bad("GET", f"{AGENTS}?kind=assistant", 400, "bad_request", "kind", "one of hosted, prompt"),
    Bad("GET", f"{A1}/versions?limit=-1", 400, "bad_request", "limit", "from 1 to 100"),
    Bad("GET", f"{A1}/versions?include_drafts=perhaps", 400, "bad_request", "include_drafts", "true or false"),
    Bad("DELETE", f"{A1}?force=maybe", 400, "bad_request", "force", "true or false"),
    Bad("DELETE", f"{A1}/versions/1?force=2", 400, "bad_request", "force", "true or false"),
    Bad("DELETE", f"{AGENTS}/busy", 409, "conflict", None, "force=true"),
    Bad("DELETE", f"{AGENTS}/busy/versions/1?force=false", 409, "conflict", None, "active session"),
    absent("GET", f"{AGENTS}/none", "agent_name", "'none' does not exist"),
    absent("GET", f"{AGENTS}/{'n' * 500}", "agent_name", "...'"),
    absent("GET", f"{AGENTS}/{'n' * 500}/endpoint/sessions", "agent_name", "...'"),
    absent("GET", f"{A1}/endpoint/sessions/{'s' * 500}", "agent_session_id", "...'"),
    absent("GET", f"{AGENTS}/{'n' * 500}/endpoint/protocols/a2a/agentCard/v0.3", "agent_name", "...'"),
    Bad(
        "POST",
        f"{PROJECT_OPENAI}/responses",
        404,
        "not_found",
        "agent_name",
        "...'",
        {"input": "hi", "agent": {"name": "n" * 5000}},
    ),
    Bad(
        "POST",
        f"{PROJECT_OPENAI}/responses",
        404,
        "not_found",
        "agent_reference.version",
        "...'",
        {"input": "hi", "agent_reference": {"name": "a1", "version": "9" * 500}},
    ),
    absent("DELETE", f"{AGENTS}/none?force=true", "agent_name", "does not exist"),
    absent("POST", f"{AGENTS}/none:enable", "agent_name", "does not exist"),
    absent("POST", f"{AGENTS}/none:disable", "agent_name", "does not exist"),
    absent("GET", f"{AGENTS}/none/versions", "agent_name", "does not exist"),
    absent("GET", f"{A1}/versions/9", "agent_version", "no version '9'"),
    absent("GET", f"{A1}/versions/@latest", "agent_version", "no version '@latest'"),
    absent("GET", f"{A1}/versions/01", "agent_version", "no version '01'"),
    absent("DELETE", f"{A1}/versions/9", "agent_version", "no version '9'"),
    absent("GET", f"{A1}/code:download?agent_version=9", "agent_version", "no version '9'"),
    absent("GET", f"{AGENTS}/none/code:download", "agent_name", "does not exist"),
    Bad("GET", f"{A1}/code:download?agent_version=1", 409, "AgentNotCodeBased", None, "runs an image"),
]

FILES = [
    absent("GET", f"{AGENTS}/none/endpoint/sessions/s/files", "agent_name", "does not exist"),
    absent("PUT", f"{A1}/endpoint/sessions/none/files/content?path=a", "agent_session_id", "no session 'none'"),
    pathless("PUT", "/content", "is missing"),
    pathless("GET", "/content?path=", "is missing"),
    pathless("GET", "/content?path=a&path=b", "more than once"),
    pathless("GET", "/stat?path=%ff", "not UTF-8"),
    pathless("GET", "?path=a/../b", "'..'"),
    pathless("GET", "?path=%2e%2e", "'..'"),
    pathless("DELETE", "?path=a%5Cb", "backslash"),
    pathless("DELETE", "?path=/home/session", "home itself"),
    pathless("PUT", "/content?path=a/", "ends in '/'"),
    pathless("PUT", f"/content?path={'n' * 256}", "longer than 255 bytes"),
    pathless("POST", "/mkdir", "NUL", {"path": "a\0"}),
    pathless("POST", "/mkdir", "string", {"path": 5}, code="invalid_payload"),
    pathless("POST", "/mkdir", "required", {}, code="invalid_payload"),
    absent("GET", f"{USED}/content?path=none", "path", "'none'"),
    absent("GET", f"{USED}?path=none", "path", "'none'"),
    absent("DELETE", f"{USED}?path=none&recursive=true", "path", "'none'"),
    Bad("DELETE", f"{USED}?path=a&recursive=maybe", 400, "bad_request", "recursive", "true or false"),
    Bad("GET", f"{USED}?limit=0", 400, "bad_request", "limit", "from 1 to 100"),
    Bad("GET", f"{USED}?order=size", 400, "bad_request", "order", "asc or desc"),
    unsupported("POST", f"{USED}/content"),
    unsupported("PUT", USED),
    Bad(
        "PUT",
        f"{USED}/content?path=a",
        413,
        "payload_too_large",
        None,
        "50 MB",
        raw=b"",
        headers={"content-length": "52428801"},
    ),
]

ROUTES = [
    unserved("POST", f"{PROJECT}/agents:import"),
    unserved("POST", f"{PROJECT}/agents:generate"),
    unserved("POST", f"{A1}/import"),
    unserved("POST", f"{A1}/versions:import"),
    unserved("POST", f"{A1}:explode"),
    unserved("GET", f"{A1}/microsoft365/package"),
    unserved("POST", f"{PROJECT}/agent_optimization_jobs"),
    unserved("GET", f"{PROJECT}/datasets"),
    unsupported("PUT", AGENTS),
    unsupported("DELETE", AGENTS),
    unsupported("PUT", A1),
    unsupported("PATCH", f"{A1}/versions/1"),
    unsupported("POST", f"{A1}/versions/1"),
    unsupported("GET", f"{OPENAI}/responses"),
    unsupported("PUT", f"{OPENAI}/responses/nope"),
    unsupported("GET", INVOCATIONS),
    unsupported("GET", f"{PROJECT}/nonsense", 404),
    unsupported("GET", PROJECT, 404),
    unsupported("POST", "/", 404),
]

TALK = [
    raw(f"{OPENAI}/responses", "not valid JSON", b'{"input": '),
    raw(f"{OPENAI}/responses", "not valid UTF-8", b'{"input": "\xff"}'),
    raw(f"{OPENAI}/responses", "a list of 1", b'["hi"]'),
    raw(f"{OPENAI}/responses", "within each other", b'{"input":' + b"[" * 200 + b"]" * 200 + b"}"),
    raw(f"{OPENAI}/responses", "infinity", b'{"input": "hi", "temperature": 1e999}'),
    asked("stream", "true or false", stream="yes"),
    asked("store", "true or false", store=1),
    asked("background", "true or false", background="no"),
    asked("background", "needs 'store'", "unsupported_parameter", background=True, store=False),
    asked("conversation", "must be a string", conversation=5),
    asked("conversation.id", "must be a string", conversation={"id": 5}),
    asked("conversation", "'nope' does not exist", "not_found", 404, conversation="nope"),
    asked("previous_response_id", "must be a string", previous_response_id=["x"]),
    asked("previous_response_id", "Malformed identifier", "invalid_parameters", previous_response_id="nope"),
    asked("previous_response_id", "not found", "not_found", 404, previous_response_id="caresp_" + "0" * 50),
    asked("agent_session_id", "must be a string", agent_session_id=5),
    asked("agent_session_id", "1 to 128", agent_session_id="a/b"),
    asked("agent_session_id", "1 to 128", agent_session_id="s" * 129),
    Bad(
        "POST",
        f"{PROJECT_OPENAI}/responses",
        400,
        "bad_request",
        "agent_reference",
        "must be an object",
        {"input": "hi", "agent_reference": "a1"},
    ),
    Bad(
        "POST",
        f"{PROJECT_OPENAI}/responses",
        400,
        "bad_request",
        "agent_reference",
        "must be an object",
        {"input": "hi", "agent_reference": {"name": 5}},
    ),
    Bad(
        "POST",
        f"{PROJECT_OPENAI}/responses",
        404,
        "not_found",
        "agent_name",
        "'none' does not exist",
        {"input": "hi", "agent_reference": {"name": "none"}},
    ),
    absent("GET", f"{OPENAI}/responses/nope", "response_id", "'nope' not found"),
    absent("DELETE", f"{OPENAI}/responses/nope", "response_id", "'nope' not found"),
    absent("POST", f"{OPENAI}/responses/nope/cancel", "response_id", "'nope' not found"),
    absent("GET", f"{OPENAI}/responses/nope/input_items", "response_id", "'nope' not found"),
    raw(f"{OPENAI}/conversations", "not valid JSON", b"{"),
    Bad("POST", f"{OPENAI}/conversations", 400, "bad_request", "items", "at most 20", {"items": "x"}),
    Bad("POST", f"{OPENAI}/conversations", 400, "bad_request", "items", "objects", {"items": [1]}),
    Bad("POST", f"{OPENAI}/conversations", 400, "bad_request", "items", "at most 20", {"items": [{}] * 21}),
    Bad("POST", f"{OPENAI}/conversations", 400, "bad_request", "metadata", "must be a string", {"metadata": {"k": 5}}),
    Bad("POST", f"{OPENAI}/conversations", 400, "bad_request", "metadata", "object of strings", {"metadata": "x"}),
    absent("GET", f"{OPENAI}/conversations/nope", "conversation_id", "does not exist"),
    absent("DELETE", f"{OPENAI}/conversations/nope", "conversation_id", "does not exist"),
    absent("GET", f"{OPENAI}/conversations/nope/items", "conversation_id", "does not exist"),
    Bad("POST", f"{OPENAI}/conversations/{{talk}}/items", 400, "bad_request", "items", "at least one", {"items": []}),
    Bad(
        "POST",
        f"{OPENAI}/conversations/{{talk}}",
        400,
        "bad_request",
        "metadata",
        "object of strings",
        {"metadata": [1]},
    ),
    Bad("GET", f"{OPENAI}/conversations/{{talk}}/items?limit=x", 400, "bad_request", "limit", "from 1 to 100"),
    Bad("GET", f"{OPENAI}/conversations/{{talk}}/items?order=up", 400, "bad_request", "order", "asc or desc"),
    absent("GET", f"{OPENAI}/conversations/{{talk}}/items/none", "item_id", "no item 'none'"),
    Bad("POST", f"{INVOCATIONS}?agent_session_id=a%2Fb", 400, "bad_request", "agent_session_id", "1 to 128", {}),
    absent("POST", f"{AGENTS}/none/endpoint/protocols/invocations", "agent_name", "does not exist"),
    absent("GET", f"{INVOCATIONS}/nope", "agent_session_id", "no invocation 'nope'"),
    absent("POST", f"{INVOCATIONS}/nope/cancel", "agent_session_id", "no invocation 'nope'"),
]

TABLE = [*NAMES, *BODIES, *DEFINITIONS, *ENDPOINTS, *ZIPS, *READS, *FILES, *ROUTES, *TALK]


@dataclass(frozen=True, slots=True)
class Settled:
    """A platform with something in it, and a conversation's id."""

    platform: PlatformUnderTest
    talk: str

    async def state(self) -> Any:
        """Everything that a refused request may not change."""

        def count(conn: Connection) -> dict[str, int]:
            return {
                table.name: conn.execute(select(func.count()).select_from(table)).scalar_one()
                for table in tables.sorted_tables
            }

        shown = [
            (await self.platform.call("GET", path)).json()
            for path in (f"{AGENTS}?limit=100", f"{A1}/versions?include_drafts=true", f"{AGENTS}/busy/versions")
        ]
        return shown, await self.platform.store.read(count), sorted(_files(self.platform.installation.layout.code))


def _files(folder: Path) -> Iterator[str]:
    return (str(path) for path in folder.rglob("*"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settled(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Settled]:
    """Agent a1 with an active version, a failed one and a draft; agent busy with a session in use."""
    async with open_platform(tmp_path_factory.mktemp("bad-requests"), ECHO) as platform:
        await platform.create_version()
        platform.place.behaviour = Behaviour(fails=StartFailed("It is not there.", phase="pull", code="ImageError"))
        failed = await platform.create_version("a1", {**DEFINITION, "cpu": "2"})
        assert failed["status"] == "failed"
        platform.place.behaviour = ECHO
        draft = await platform.call("POST", f"{A1}/versions", {"definition": DEFINITION, "draft": True})
        assert draft.json()["version"] == "draft-1700000000000"
        await platform.settled("a1", "draft-1700000000000")
        await platform.create_version("busy")
        answer = await platform.call(
            "POST", f"{OPENAI.replace('a1', 'busy')}/responses", {"input": "hi", "agent_session_id": "used"}
        )
        assert answer.status == 200
        yield Settled(platform, await platform.conversation())


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("bad", TABLE, ids=str)
async def test_it_is_refused_with_a_sentence_and_changes_nothing(settled: Settled, bad: Bad) -> None:
    """Status, code and field are as the wire has them, the sentence says why, and no secret stands in it."""
    before = await settled.state()
    path = bad.path.replace("{talk}", settled.talk)
    answer = await settled.platform.call(bad.method, path, bad.body, raw=bad.raw, headers=bad.headers)
    assert answer.status == bad.status, answer.body
    error = answer.error
    assert (error["code"], error["param"]) == (bad.code, bad.param), error
    assert bad.said in error["message"], error
    assert len(error["message"]) < 600
    assert error["additionalInfo"]["request_id"] == answer.headers["x-request-id"]
    assert "retry-after" not in answer.headers
    if bad.said_not is not None:
        assert bad.said_not not in answer.body.decode()
    assert await settled.state() == before


@pytest.mark.asyncio(loop_scope="module")
async def test_nobody_learns_anything_without_a_token(settled: Settled) -> None:
    """Any of these requests is a 401 first."""
    stranger = Caller(settled.platform.platform.clients, None)
    for bad in TABLE:
        answer = await stranger(bad.method, bad.path, bad.body, raw=bad.raw, headers=bad.headers)
        assert answer.status == 401, str(bad)
