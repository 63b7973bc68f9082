"""An agent that writes what it is told to both of its streams."""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Agent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._say(200 if self.path == "/readiness" else 404)

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        print(told["text"], file=sys.stderr if told.get("stream") == "stderr" else sys.stdout, flush=True)
        self._say(200)

    def _say(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: only what it is told."""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the first process of a container has no default
    print("talking", flush=True)
    ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8088"))), Agent).serve_forever()
