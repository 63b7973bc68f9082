"""Reading bodies: JSON objects, the upload of a code deployment, and a model of what stands in them."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from cupola.errors import BadRequest, PayloadTooLarge
from cupola.secrecy import brief

MAX_JSON = 32 * 1024 * 1024
"""Bytes of a JSON body; images travel inline in responses requests, hence not less."""

MAX_DEPTH = 100
"""Objects and lists within each other. What is read must be written again, and orjson writes 254 levels at most."""

_MAX_FIELD = 4 * 1024 * 1024
"""Bytes of what stands beside the zip in an upload."""

_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[{]+|[\]}]+")

M = TypeVar("M", bound=BaseModel)


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object; no bytes at all are an empty one. Raises BadRequest."""
    if not raw.strip():
        return {}
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", code="invalid_payload") from error
    if not isinstance(body, dict):
        raise BadRequest(f"The body must be a JSON object; it is {brief(body)}.", code="invalid_payload")
    if _is_too_deep(raw):
        raise BadRequest(
            f"The body has more than {MAX_DEPTH} objects and lists within each other; send it flatter.",
            code="invalid_payload",
        )
    return body


def _is_too_deep(raw: bytes) -> bool:
    """Of valid JSON. Nearly every body is acquitted by how few brackets it has in all."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    for run in _BRACKETS.finditer(_STRINGS.sub(b"", raw)):
        length = run.end() - run.start()
        depth += length if run[0][:1] in b"[{" else -length
        if depth > MAX_DEPTH:
            return True
    return False


async def read_object(request: Request) -> dict[str, Any]:
    """The request's body as a JSON object. Raises BadRequest, or PayloadTooLarge."""
    return parse_object(await read_bytes(request))


async def read_bytes(request: Request) -> bytes:
    """The request's body. Raises BadRequest where it breaks off, or PayloadTooLarge."""
    chunks = bytearray()
    try:
        async for chunk in request.stream():
            chunks += chunk
            if len(chunks) > MAX_JSON:
                raise PayloadTooLarge(f"The body is larger than {MAX_JSON // 1024**2} MB.")
    except ClientDisconnect as error:
        raise _broken_off() from error
    return bytes(chunks)


async def read_pieces(request: Request, limit: int, what: str) -> AsyncGenerator[bytes]:
    """The request's body as it comes. Raises BadRequest where it breaks off, or PayloadTooLarge about `what`.

    A body that is announced to be too large is refused before it is read.
    """
    too_large = PayloadTooLarge(f"The body is larger than {limit // 1024**2} MB, the most that {what} may have.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    seen = 0
    try:
        async for chunk in request.stream():
            seen += len(chunk)
            if seen > limit:
                raise too_large
            yield chunk
    except ClientDisconnect as error:
        raise _broken_off() from error


def _broken_off() -> BadRequest:
    return BadRequest("The caller left before the body was complete.", code="invalid_payload")


def read_model(model: type[M], body: object, *, prefix: str = "") -> M:
    """`body` as `model`, or a BadRequest that names the field, its value and what is allowed."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part)[:80] for part in first["loc"] if part != "[key]")
        field = f"{prefix}{path}" if path else prefix.rstrip(".") or "body"
        shown = "" if first["type"] == "missing" else f" It is {_shown(field, first.get('input'))}."
        raise BadRequest(f"'{field}': {first['msg']}.{shown}", code="invalid_payload", param=field) from error


def _shown(field: str, value: object) -> str:
    """Values of environment variables are often secrets, whatever they look like."""
    if ".environment_variables." in field and isinstance(value, str | int | float) and not isinstance(value, bool):
        return "not shown, since it may be a secret"
    return brief(value)


# Uploads


@dataclass(frozen=True, slots=True)
class Upload:
    """The two parts of a code deployment: its description and the zip."""

    metadata: dict[str, Any]
    code: bytes


def is_upload(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def read_upload(request: Request, max_code: int) -> Upload:
    """The parts `metadata` (JSON) and `code` (zip), told apart by name: their types differ by client (§2.4).

    `max_code` is the most bytes that the zip may have. Raises BadRequest naming the part, or PayloadTooLarge.
    """
    limit = max_code + _MAX_FIELD
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(max_code)
    counted = _Counted(request.receive, limit)
    try:
        async with Request(request.scope, counted).form(max_part_size=_MAX_FIELD) as form:
            return await _parts_of(form, max_code)
    except HTTPException as error:
        if counted.seen > limit:
            raise _too_large(max_code) from error
        raise BadRequest(f"The multipart body is damaged: {error.detail}", code="invalid_payload") from error


class _Counted:
    """Ends a body that is longer than it may be, or whose sender left, as the parser of forms expects it: it then
    closes its temporary files.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self.seen = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise MultiPartException("the caller left before it was complete.")
        self.seen += len(message.get("body", b""))
        if self.seen > self._limit:
            raise MultiPartException("it is too large.")
        return message


async def _parts_of(form: FormData, max_code: int) -> Upload:
    for name in ("metadata", "code"):
        if len(form.getlist(name)) > 1:
            raise BadRequest(f"The multipart body has the part '{name}' more than once; send it once.", param=name)
    metadata, code = form.get("metadata"), form.get("code")
    if metadata is None:
        raise BadRequest("The multipart body lacks the part 'metadata' with the definition as JSON.", param="metadata")
    if not isinstance(code, UploadFile):
        raise BadRequest(
            "The multipart body lacks the part 'code' with the zip as a file (a part with a filename).", param="code"
        )
    text = await metadata.read() if isinstance(metadata, UploadFile) else metadata.encode()
    if code.size is not None and code.size > max_code:
        raise _too_large(max_code)
    return Upload(_metadata_of(text), await code.read())


def _metadata_of(text: bytes) -> dict[str, Any]:
    try:
        return parse_object(text)
    except BadRequest as error:
        said = error.message.replace("The body", "The multipart part 'metadata'", 1)
        raise BadRequest(said, code=error.code, param="metadata") from error


def _too_large(max_code: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The upload is larger than {max_code // 1024**2} MB, the most a zip may have.", param="code"
    )
