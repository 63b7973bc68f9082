"""Debug bundles: all that is known of one session in one archive, for eyes elsewhere, and to run it again.

A bundle is a zip. `bundle.json` says of what it is and in which version of the format; the other members are JSON, or
a JSON object a line where there may be many (`docs/debug-bundles.md` has the layout). Members may be added; what
changes the meaning of one gets a new version of the format.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cupola.errors import BadRequest
from cupola.timings import Timing

FORMAT = "cupola.debug-bundle"
VERSION = 1

MANIFEST = "bundle.json"
DEFINITION = "definition.json"
ENVIRONMENT = "environment.json"
SESSION = "session.json"
RUNS = "runs.json"
FILES = "files.json"
OUTPUT = "output.ndjson"
RESPONSES = "responses.ndjson"
CONVERSATIONS = "conversations.ndjson"
TIMINGS = "timings.ndjson"

_ANSWERING = frozenset({"responses", "a2a"})
"""Protocols whose requests make responses."""


def timing_of(created_at: float, timings: Iterable[Timing]) -> Timing | None:
    """The request that made a response: the last that had begun by then, and had not ended."""
    made = None
    for timing in timings:
        ended_at = timing.began_at + timing.last_byte_ms / 1000
        if timing.protocol in _ANSWERING and timing.began_at <= created_at <= ended_at + 1:
            made = timing
    return made


@dataclass(frozen=True, slots=True)
class Turn:
    """One response of a session: what it was asked, and what came of it. `milliseconds` until its reply began."""

    id: str
    input: str | Sequence[Mapping[str, Any]]
    fields: Mapping[str, Any]
    conversation: str | None
    previous: str | None
    background: bool
    status: str
    text: str
    milliseconds: float | None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read. `others` is how many requests there were whose input nobody has kept, by protocol."""

    agent: str
    version: str
    session: str
    definition: Mapping[str, Any]
    environment: Mapping[str, str | None]
    turns: Sequence[Turn]
    conversations: Mapping[str, Sequence[Mapping[str, Any]]]
    others: Mapping[str, int]

    @property
    def image(self) -> str | None:
        """What the version ran, unless that was code."""
        image = self.definition.get("image")
        return image if isinstance(image, str) else None


def read_bundle(path: Path) -> Bundle:
    """Reads a bundle. Raises BadRequest for what is none, or is of a later format."""
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _manifest(archive, path)
            turns = [_turn(row) for row in _lines(archive, RESPONSES)]
            return Bundle(
                agent=str(manifest["agent"]),
                version=str(manifest["version"]),
                session=str(manifest["session"]),
                definition=json.loads(archive.read(DEFINITION)),
                environment=json.loads(archive.read(ENVIRONMENT)),
                turns=turns,
                conversations=_first_items(_lines(archive, CONVERSATIONS), _lines(archive, RESPONSES)),
                others=_others(_lines(archive, TIMINGS), len(turns)),
            )
    except FileNotFoundError as error:
        raise BadRequest(f"There is no file {path}.") from error
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise BadRequest(
            f"{path} is no debug bundle, or it is damaged ({type(error).__name__}): make it anew with "
            "`cupola debug-bundle AGENT SESSION`."
        ) from error


def _manifest(archive: zipfile.ZipFile, path: Path) -> Mapping[str, Any]:
    manifest: Mapping[str, Any] = json.loads(archive.read(MANIFEST))
    if manifest["format"] != FORMAT:
        raise ValueError(manifest["format"])
    if manifest["format_version"] > VERSION:
        raise BadRequest(
            f"{path} is a bundle of format {manifest['format_version']}, and this Cupola reads {VERSION}: update it."
        )
    return manifest


def _lines(archive: zipfile.ZipFile, name: str) -> Iterator[Mapping[str, Any]]:
    with archive.open(name) as member:
        for line in member:
            yield json.loads(line)


_ASKED = ("instructions", "max_output_tokens", "metadata", "model", "reasoning", "temperature", "top_p", "user")
"""What a response repeats of its request, and a replay sends again where it says something."""


def _turn(row: Mapping[str, Any]) -> Turn:
    body, timing = row["response"], row["timing"]
    return Turn(
        id=str(row["id"]),
        input=_as_sent([_without_id(item) for item in row["input"]]),
        fields={name: body[name] for name in _ASKED if body.get(name) not in (None, {}, "")},
        conversation=row["conversation"],
        previous=body.get("previous_response_id"),
        background=bool(row["background"]),
        status=str(body.get("status")),
        text=text_of(body),
        milliseconds=None if timing is None else float(timing["response_begin_ms"]),
    )


def _without_id(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """An item as a client sends it: ids are given where it arrives."""
    return {name: value for name, value in item.items() if name not in ("id", "status")}


def _as_sent(items: list[Mapping[str, Any]]) -> str | list[Mapping[str, Any]]:
    """One message of one text as that text: clients send it so, and plain containers may know nothing else."""
    match items:
        case [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": str(text), **rest}]}]:
            return text if not rest else items
    return items


def text_of(body: Mapping[str, Any]) -> str:
    """All that a response says in words, as `output_text` of the OpenAI client."""
    return "".join(
        str(part.get("text", ""))
        for item in body.get("output") or ()
        if item.get("type") == "message"
        for part in item.get("content") or ()
        if part.get("type") == "output_text"
    )


def _first_items(
    rows: Iterable[Mapping[str, Any]], responses: Iterable[Mapping[str, Any]]
) -> dict[str, list[Mapping[str, Any]]]:
    """By conversation, what was in it besides what the turns put there."""
    known = {item.get("id") for row in responses for item in (*row["input"], *(row["response"].get("output") or ()))}
    return {str(row["id"]): [_without_id(item) for item in row["items"] if item.get("id") not in known] for row in rows}


def _others(timings: Iterable[Mapping[str, Any]], turns: int) -> dict[str, int]:
    counted: dict[str, int] = {}
    for row in timings:
        protocol = str(row["protocol"])
        counted[protocol] = counted.get(protocol, 0) + 1
    for protocol in sorted(_ANSWERING & set(counted)):
        taken = min(turns, counted[protocol])
        turns, counted[protocol] = turns - taken, counted[protocol] - taken
    return {protocol: number for protocol, number in counted.items() if number}
