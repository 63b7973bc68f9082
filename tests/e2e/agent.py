"""An agent of the standard library alone, which does what its input says; the tests deploy this file.

It runs as a code deployment and as an image. `NONCE` tells one process from the next.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NONCE = uuid.uuid4().hex
HOME = Path(os.environ["HOME"])


def say(asked: list[str]) -> Any:
    """The answer to `asked`, a command and its arguments."""
    match asked:
        case ["who"]:
            return {"nonce": NONCE, "files": sorted(path.name for path in HOME.iterdir())}
        case ["touch", name]:
            (HOME / name).write_text("x")
            return name
        case ["address"]:
            return socket.gethostbyname(socket.gethostname())
        case ["connect", host, port]:
            try:
                socket.create_connection((host, int(port)), timeout=3).close()
            except OSError as error:
                return type(error).__name__
            return "open"
        case ["token"]:
            request = urllib.request.Request(os.environ["IDENTITY_ENDPOINT"] + "?resource=https://ai.azure.com")
            request.add_header("X-IDENTITY-HEADER", os.environ["IDENTITY_HEADER"])
            with urllib.request.urlopen(request, timeout=5) as reply:
                return json.load(reply)["access_token"]
        case ["callback", token]:
            url = os.environ["FOUNDRY_PROJECT_ENDPOINT"] + "/storage/responses/none"
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
            trusted = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
            try:
                with urllib.request.urlopen(request, timeout=5, context=trusted) as reply:
                    return reply.status
            except urllib.error.HTTPError as error:
                return error.code
        case _:
            return " ".join(asked)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._send(200, {"status": "healthy"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked.get("stream"):
            self._stream()
        else:
            text = json.dumps(say(asked["input"].split()))
            self._send(200, self._response("completed", text))

    def _stream(self) -> None:
        """Begins, then trickles for a minute."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self._event("response.created", response=self._response("in_progress", ""))
        for _ in range(600):
            self._event("response.output_text.delta", delta="word ")
            time.sleep(0.1)

    def _event(self, kind: str, **fields: Any) -> None:
        self.wfile.write(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())
        self.wfile.flush()

    def _response(self, status: str, text: str) -> dict[str, Any]:
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {"id": "msg_" + uuid.uuid4().hex, "type": "message", "role": "assistant", "content": [part]}
        output = [item] if status == "completed" else []
        return {"id": self.headers["x-agent-response-id"], "object": "response", "status": status, "output": output}

    def _send(self, status: int, body: Any) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


if __name__ == "__main__":
    time.sleep(float(os.environ.get("SLOW_START", "0")))
    ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "8088"))), Handler).serve_forever()
