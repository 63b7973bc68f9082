"""An agent without any adapter, on Python's own HTTP server: it keeps its background responses in memory, no more."""

from __future__ import annotations

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RUNNING: dict[str, dict[str, Any]] = {}


def message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def count(body: dict[str, Any], numbers: int) -> None:
    """Works in the background until it is done or cancelled."""
    for _ in range(numbers):
        time.sleep(0.05)
        if body["status"] == "cancelled":
            return
    body.update(status="completed", output=[message(" ".join(map(str, range(numbers))))])


class Agent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/readiness":
            self._say(200, {"status": "healthy"})
        elif (body := RUNNING.get(self.path.rpartition("/")[2])) is not None:
            self._say(200, body)
        else:
            self._say(404, {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))) or b"{}")
        if self.path.endswith("/cancel"):
            body = RUNNING[self.path.split("/")[2]]
            body["status"] = "cancelled"
            self._say(200, body)
        elif asked.get("stream"):
            self._stream(asked)
        elif asked.get("background"):
            body = {"id": self.headers["x-agent-response-id"], "status": "in_progress", "background": True}
            RUNNING[body["id"]] = body
            numbers = int(str(asked["input"]).split()[-1])
            threading.Thread(target=count, args=(body, numbers), daemon=True).start()
            self._say(200, body)
        else:
            self._say(200, {"output": [message(f"You said: {asked['input']}")]})

    def _stream(self, asked: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        output = [message(f"You said: {asked['input']}")]
        self._event({"type": "response.created", "sequence_number": 0, "response": {"status": "in_progress"}})
        delta = {"output_index": 0, "content_index": 0, "item_id": "msg_1", "delta": "You said: "}
        self._event({"type": "response.output_text.delta", "sequence_number": 1, **delta, "logprobs": []})
        self._event({"type": "response.completed", "sequence_number": 2, "response": {"output": output}})

    def _event(self, payload: dict[str, Any]) -> None:
        self.wfile.write(f"event: {payload['type']}\ndata: {json.dumps(payload)}\n\n".encode())
        self.wfile.flush()

    def _say(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test says what went wrong."""


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8088"))), Agent).serve_forever()
