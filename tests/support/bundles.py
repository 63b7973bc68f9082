"""Bundles as a platform writes them, with what a test puts in."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cupola import bundles

IMAGE_DEFINITION: Mapping[str, Any] = {
    "kind": "hosted",
    "image": "registry.example/greeter:1",
    "environment_variables": {"LOG_LEVEL": "info", "API_KEY": None},
}


def recorded(number: int, said: str, answered: str, **fields: Any) -> dict[str, Any]:
    """A row of `responses.ndjson`; `fields` of the row, or of the response where it has no such field."""
    message = {"type": "message", "role": "user", "id": f"in_{number}", "content": [_text("input_text", said)]}
    output = {
        "type": "message",
        "role": "assistant",
        "id": f"out_{number}",
        "content": [_text("output_text", answered)],
    }
    row = {"conversation": None, "background": False, "timing": {"response_begin_ms": 10.0 * number}}
    body = {name: value for name, value in fields.items() if name not in row}
    return {
        **row,
        **{name: value for name, value in fields.items() if name in row},
        "id": f"old_{number}",
        "input": [message],
        "response": {"id": f"old_{number}", "status": "completed", "output": [output], **body},
    }


def _text(kind: str, text: str) -> dict[str, Any]:
    return {"type": kind, "text": text}


def write(
    path: Path,
    responses: Sequence[Mapping[str, Any]],
    *,
    definition: Mapping[str, Any] = IMAGE_DEFINITION,
    conversations: Sequence[Mapping[str, Any]] = (),
    protocols: Sequence[str] = (),
    **manifest: Any,
) -> Path:
    """A bundle of the session `s1` of `greeter:3`."""
    head = {"format": bundles.FORMAT, "format_version": 1, "agent": "greeter", "version": "3", "session": "s1"}
    timings = [{"protocol": protocol} for protocol in ("responses",) * len(responses) + tuple(protocols)]
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in (
            (bundles.MANIFEST, {**head, **manifest}),
            (bundles.DEFINITION, definition),
            (bundles.ENVIRONMENT, {}),
        ):
            archive.writestr(name, json.dumps(value))
        for name, rows in (
            (bundles.RESPONSES, responses),
            (bundles.CONVERSATIONS, conversations),
            (bundles.TIMINGS, timings),
        ):
            archive.writestr(name, "".join(json.dumps(row) + "\n" for row in rows))
    return path
