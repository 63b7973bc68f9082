"""An agent without any adapter that works with the files of its home, as it is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOME = Path.home()


def do(told: dict[str, Any]) -> Any:
    path = HOME / told.get("path", ".")
    match told["do"]:
        case "read":
            return path.read_text()
        case "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.write_text(told["text"])
        case "append":
            with path.open("a") as file:
                return file.write(told["text"])
        case "link":
            return path.symlink_to(told["to"])
        case "remove":
            return shutil.rmtree(path) if path.is_dir() else path.unlink()
        case "list":
            return sorted(str(found.relative_to(HOME)) for found in path.rglob("*"))
        case "whoami":
            return os.getuid()


class Agent(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._say(200, {"status": "healthy"})

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))))
        try:
            self._say(200, {"done": do(told)})
        except OSError as error:
            self._say(200, {"failed": str(error)})

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
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # the first process of a container ignores it otherwise
    ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8088"))), Agent).serve_forever()
