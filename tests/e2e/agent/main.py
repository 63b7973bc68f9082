"""The agent of the end-to-end tests: counts in its home, streams as slowly as it is told, looks around its network.

Standard library only, so that it runs wherever Python does. `READY_AFTER` is in seconds; with `TALK`
it writes without end; `EXIT` ends it at once with
that code and with more words than are wise, as a broken agent would.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BORN = time.monotonic()
BOOT = uuid.uuid4().hex
COUNTING = threading.Lock()


def count() -> int:
    """How often this has been asked, kept in the home."""
    file = Path.home() / "count"
    with COUNTING:
        counted = int(file.read_text()) + 1 if file.exists() else 1
        file.write_text(str(counted))
    return counted


def talk() -> None:
    """Writes a numbered line a hundred times a second, for as long as it lives."""
    number = 0
    while True:
        print(f"line {number}", flush=True)
        number += 1
        time.sleep(0.01)


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """What comes of one look around."""
    if asked["look"] == "environment":
        return {"environment": dict(os.environ)}
    if asked["look"] == "address":
        return {"address": socket.gethostbyname(socket.gethostname())}
    if asked["look"] == "connect":
        try:
            socket.create_connection((asked["host"], asked["port"]), timeout=asked["timeout"]).close()
        except OSError as error:
            return {"connected": False, "error": str(error)}
        return {"connected": True}
    request = urllib.request.Request(asked["url"], headers=asked["headers"])
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return {"status": reply.status, "body": reply.read().decode()}
    except urllib.error.HTTPError as refused:
        return {"status": refused.code, "body": refused.read().decode()}


class Agent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        ready = self.path == "/readiness" and time.monotonic() - BORN >= float(os.environ.get("READY_AFTER", "0"))
        self.reply(200 if ready else 503, {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "look" in asked:
            self.reply(200, look(asked))
        elif self.path.startswith("/invocations"):
            self.reply(200, {"calls": count(), "boot": BOOT})
        elif asked.get("stream"):
            self.stream(float(asked["input"]))
        else:
            self.reply(200, self.response("completed", json.dumps({"calls": count(), "boot": BOOT})))

    def response(self, status: str, text: str = "") -> dict[str, Any]:
        response_id = self.headers["x-agent-response-id"]
        content = [{"type": "output_text", "text": text, "annotations": []}]
        message = {"id": f"msg_{response_id}", "type": "message", "role": "assistant", "content": content}
        output = [{**message, "status": "completed"}] if text else []
        return {"id": response_id, "object": "response", "created_at": 1, "status": status, "output": output}

    def stream(self, seconds: float) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.event("response.created", response=self.response("in_progress"))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.event("response.output_text.delta", delta="tick ")
            time.sleep(0.1)
        self.event("response.completed", response=self.response("completed", "ticked"))

    def event(self, kind: str, **fields: Any) -> None:
        self.wfile.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())
        self.wfile.flush()

    def reply(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a caller that leaves is no news


if __name__ == "__main__":
    if "EXIT" in os.environ:
        print(dict(os.environ))
        sys.exit(int(os.environ["EXIT"]))
    if "TALK" in os.environ:
        threading.Thread(target=talk, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    host = "127.0.0.1" if os.environ.get("PORT", "8088") != "8088" else "0.0.0.0"
    Server((host, int(os.environ.get("PORT", "8088"))), Agent).serve_forever()
