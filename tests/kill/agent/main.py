"""An agent that keeps what it is told in its home, answers in one piece, in pieces or in the background, and eats.

Standard library only, so that it starts in a blink wherever Python does.
"""

from __future__ import annotations

import json
import os
import signal
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MEAL = 64 * 1024 * 1024
BACKGROUND: dict[str, tuple[float, dict[str, Any]]] = {}
EATEN: list[bytes] = []


def keep(name: str) -> None:
    """A file that is there, whole, when this returns: what is answered afterwards is a promise."""
    with (Path.home() / f".{name}.part").open("wb") as file:
        file.write(b"kept")
        file.flush()
        os.fsync(file.fileno())
    (Path.home() / f".{name}.part").rename(Path.home() / name)


class Agent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/readiness":
            self.reply(200, {})
            return
        known = BACKGROUND.get(self.path.rpartition("/")[2])
        if known is None:
            self.reply(404, {})
        else:
            ends_at, body = known
            ended = time.monotonic() >= ends_at
            self.reply(200, body if ended else {**body, "status": "in_progress", "output": []})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        for _ in range(asked.get("eat", 0)):
            EATEN.append(os.urandom(1) * MEAL)
        if "keep" in asked:
            keep(asked["keep"])
        if not asked.get("stream"):
            time.sleep(asked.get("nap", 0))
        if self.path.startswith("/invocations"):
            names = [path.name for path in Path.home().iterdir()]
            self.reply(200, {"files": sorted(name for name in names if not name.startswith("."))})
        elif asked.get("stream"):
            self.stream(asked["input"], asked.get("nap", 0))
        elif asked.get("background"):
            body = self.response("completed", asked["input"])
            BACKGROUND[body["id"]] = (time.monotonic() + 0.3, body)
            self.reply(200, {**body, "status": "in_progress", "output": []})
        else:
            self.reply(200, self.response("completed", asked["input"]))

    def response(self, status: str, text: str) -> dict[str, Any]:
        response_id = self.headers["x-agent-response-id"]
        content = [{"type": "output_text", "text": f"You said: {text}", "annotations": []}]
        message = {"id": f"msg_{response_id[7:]}", "type": "message", "role": "assistant", "content": content}
        output = [{**message, "status": "completed"}] if status == "completed" else []
        return {"id": response_id, "object": "response", "created_at": 1, "status": status, "output": output}

    def stream(self, text: str, nap: float) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.event("response.created", response=self.response("in_progress", ""))
        for _ in range(5):
            self.event("response.output_text.delta", delta="tick ")
            time.sleep(0.02 + nap / 5)
        self.event("response.completed", response=self.response("completed", text))

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
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    host = "127.0.0.1" if os.environ.get("PORT", "8088") != "8088" else "0.0.0.0"
    Server((host, int(os.environ.get("PORT", "8088"))), Agent).serve_forever()
