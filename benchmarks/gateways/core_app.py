"""The proxy core alone, under uvicorn: what the gateway would cost if it had nothing else to do.

A pure ASGI application with a token check and a session look-up in memory in front of
`gateway.proxy.forward`. Started by `benchmarks/gateway.py`, which names the upstream, the token and the
session in the environment.
"""

from __future__ import annotations

import hashlib
import os
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from cupola.drivers.base import Address
from cupola.gateway import headers
from cupola.gateway.leaving import Leaving, caller_body
from cupola.gateway.proxy import forward
from cupola.gateway.upstream import Upstream

UPSTREAM = Address("127.0.0.1", int(os.environ.get("BENCH_UPSTREAM_PORT", "8088")))
TOKENS = {hashlib.sha256(os.environ.get("BENCH_TOKEN", "").encode()).digest(): "caller"}
SESSIONS = {("caller", os.environ.get("BENCH_SESSION", "")): UPSTREAM}

upstream = Upstream()
leaving = Leaving()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        return
    authorization = headers.find(scope["headers"], b"authorization") or b""
    caller = TOKENS.get(hashlib.sha256(authorization.removeprefix(b"Bearer ")).digest(), "")
    session = parse_qs(scope["query_string"].decode("ascii")).get("agent_session_id", [""])[0]
    address = SESSIONS.get((caller, session))
    if address is None:
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    body = b"".join([part async for part in caller_body(receive)])
    await forward(
        upstream,
        address,
        method=scope["method"],
        target=b"/invocations?agent_session_id=" + session.encode("ascii"),
        headers=headers.to_sandbox(scope["headers"]),
        body=body,
        send=send,
        receive=receive,
        leaving=leaving,
        extra_reply_headers=[(b"x-agent-session-id", session.encode("ascii"))],
    )
