"""Requests that nobody should send: made from the platform's OpenAPI document, and by mutating good ones.

Both kinds are drawn from one seed, so that a finding can be had again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode, openapi
from schemathesis.core.result import Ok

from tests.fuzz.recorded import RECORDED

BASE = "https://localhost"
HEADERS_OF_A_CLIENT = ("authorization", "host", "connection", "content-length")


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: `target` is path and query as they go over the line, `about` says where it comes from."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    about: str = ""

    def naming(self, names: Mapping[str, Sequence[str]], dice: random.Random) -> Sent:
        """The same about things that exist, where it leaves them open: `{agent}`, also percent-encoded."""
        target, body = self.target, self.body
        for name, known in names.items():
            chosen = dice.choice(known)
            target = target.replace(f"%7B{name}%7D", chosen).replace(f"{{{name}}}", chosen)
            body = body.replace(f"{{{name}}}".encode(), chosen.encode())
        return replace(self, target=target, body=body)

    def __str__(self) -> str:
        return f"{self.method} {self.target} {dict(self.headers)} {self.body[:2000]!r} ({self.about})"


def from_schema(document: Mapping[str, Any], start: int, each: int) -> Iterator[Sent]:
    """`each` requests for every operation of the document, half as described and half not.

    Most name nothing yet but `{agent}` and the like: they should get further than to a 404.
    """
    for result in openapi.from_dict(dict(document)).get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            cases = _cases(operation, mode, start, each // 2)
            dice = random.Random(f"{start}{operation.label}{mode}")
            for case in cases:
                for name in case.path_parameters:
                    if dice.random() < 0.85:
                        case.path_parameters[name] = f"{{{name}}}"
                sent = _sent(case, f"{operation.label}, {mode.value}")
                if sent is not None:
                    yield sent


def _cases(operation: Any, mode: GenerationMode, start: int, count: int) -> list[Case[Any]]:
    found: list[Case[Any]] = []

    @seed(start)
    @settings(
        max_examples=max(count, 1),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def collect(case: Case[Any]) -> None:
        found.append(case)

    try:
        collect()
    except Exception as error:
        # Nothing can be wrong about an operation that takes nothing: there is no negative case of it.
        if "negative" not in str(error).lower() and "Unsatisfiable" not in type(error).__name__:
            raise
    return found[:count]


def _sent(case: Case[Any], about: str) -> Sent | None:
    """The case as bytes; None where no HTTP client could send it."""
    arguments = case.as_transport_kwargs(base_url=BASE)
    try:
        request = requests.Request(**arguments).prepare()
    except (requests.RequestException, ValueError, TypeError):
        return None
    headers = {
        name.lower(): str(value)
        for name, value in request.headers.items()
        if name.lower() not in HEADERS_OF_A_CLIENT and str(value).isascii() and str(value).isprintable()
    }
    body = request.body or b""
    target = (request.url or "").removeprefix(BASE)
    return Sent(request.method or "", target, headers, body.encode() if isinstance(body, str) else body, about)


def mutated(start: int, count: int) -> Iterator[Sent]:
    """`count` recorded requests of real clients, each with one to three things wrong."""
    dice = random.Random(start)
    for _ in range(count):
        recorded = dice.choice(RECORDED)
        headers = {"content-type": "application/json"} if recorded.body is not None else {}
        body = deepcopy(recorded.body)
        sent = Sent(recorded.method, recorded.target, headers, b"", recorded.about)
        for _ in range(dice.randint(1, 3)):
            if body is not None and dice.random() < 0.75:
                body = _other_json(body, dice)
            else:
                sent = dice.choice(_ENVELOPES)(sent, dice)
        raw = b"" if body is None else orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)
        if raw and dice.random() < 0.15:
            raw = _other_bytes(raw, dice)
        yield replace(sent, body=raw)


_VALUES: Sequence[Any] = (
    None,
    True,
    False,
    0,
    -1,
    2**31,
    2**63 - 1,
    1e308,
    "",
    " ",
    "\0",
    "a" * 70,
    "x" * 5000,
    "../../etc/passwd",
    "%2e%2e%2f",
    "名前",
    "\ufeff",
    "\u202e",
    "1; DROP TABLE agents",
    "${{connections.a.credentials.key}}",
    "@latest",
    "draft-1",
    [],
    [[]],
    [None],
    {},
    {"": ""},
    {"$ref": "#"},
    {"type": "hosted"},
)


def _deep(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]
    return value


def _other_json(value: Any, dice: random.Random) -> Any:
    """The same with one thing changed somewhere."""
    if dice.random() < 0.03:
        return _deep(dice.choice([50, 200]))
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(list(value))
        match dice.randrange(5):
            case 0:
                return {name: entry for name, entry in value.items() if name != key}
            case 1:
                return {**value, dice.choice(["extra", "", "a" * 100, "__proto__", key.upper()]): dice.choice(_VALUES)}
            case _:
                return {**value, key: _other_json(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.85:
        index = dice.randrange(len(value))
        match dice.randrange(4):
            case 0:
                return value[:index] + value[index + 1 :]
            case 1:
                return value * dice.choice([2, 50])
            case _:
                return [*value[:index], _other_json(value[index], dice), *value[index + 1 :]]
    if isinstance(value, str) and dice.random() < 0.3:
        return value + dice.choice(["\0", " ", "/", "é", "'", '"', "%00", "\n"])
    return deepcopy(dice.choice(_VALUES))


def _other_bytes(raw: bytes, dice: random.Random) -> bytes:
    match dice.randrange(5):
        case 0:
            return raw[: dice.randrange(len(raw))]
        case 1:
            at = dice.randrange(len(raw))
            return raw[:at] + bytes([dice.randrange(256)]) + raw[at + 1 :]
        case 2:
            return b"\xff\xfe" + raw
        case 3:
            return raw + raw
        case _:
            return b"[" * 5000


def _other_path(sent: Sent, dice: random.Random) -> Sent:
    path, mark, query = sent.target.partition("?")
    parts = path.split("/")
    at = dice.randrange(1, len(parts))
    odd = ("", ".", "..", "%00", "%2F", "%c3%28", "a" * 300, "a:b", "@latest", "*", "%7Bid%7D", "caresp_" + "a" * 50)
    parts[at] = dice.choice(odd)
    return replace(sent, target="/".join(parts) + mark + query)


def _other_query(sent: Sent, dice: random.Random) -> Sent:
    odd = (
        "limit=0",
        "limit=-1",
        "limit=1e9",
        "limit=%00",
        "order=up",
        "after=%FF",
        "before=nobody",
        "after=a1&before=a1",
        "force=maybe",
        "stream=true&starting_after=x",
        "starting_after=-5&stream=true",
        "agent_session_id=../x",
        "agent_session_id=" + "s" * 500,
        "agent_session_id=a&agent_session_id=b",
        "include_drafts=2",
        "api-version=1999-01-01",
        "kind=robot",
        "&&&==",
    )
    return replace(sent, target=sent.target.partition("?")[0] + "?" + dice.choice(odd))


def _other_method(sent: Sent, dice: random.Random) -> Sent:
    return replace(sent, method=dice.choice(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"]))


def _other_header(sent: Sent, dice: random.Random) -> Sent:
    odd = {
        "content-type": dice.choice(
            ["text/plain", "multipart/form-data", "multipart/form-data; boundary=x", "", "a/b"]
        ),
        "x-agent-session-id": "forged",
        "x-agent-response-id": "caresp_forged",
        "x-agent-foundry-call-id": "call_x.y",
        "x-agent-user-isolation-key": "someone",
        "x-request-id": "a b\tc" * 50,
        "x-ms-user-identity": "someone@example",
        "x-ms-code-zip-sha256": "zz",
        "x-ms-agent-name": "-bad-",
        "traceparent": "00-zz",
        "accept": "text/event-stream",
    }
    name = dice.choice(list(odd))
    return replace(sent, headers={**sent.headers, name: odd[name]})


_ENVELOPES: Sequence[Callable[[Sent, random.Random], Sent]] = (_other_path, _other_query, _other_method, _other_header)
