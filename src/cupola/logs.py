"""Logging: one shape for our own events and for the libraries', on stderr, with every secret taken out.

Redaction is the last step before rendering, so it sees tracebacks and the libraries' messages as well. It is a net
under the rule that secrets are not logged, not a replacement for it. Requests are logged by our own code: the access
log of uvicorn stays silent.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

REDACTED = "[redacted]"

_SECRET_KEY = re.compile(
    r"authorization|cookie|credential|password|passwd|secret|api_?key|access_?key|private_?key|signing_?key"
    r"|identity_?header|connection_?string|(^|_)(token|sas|sig)$",
)
_SECRET_TEXTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)\b(bearer|basic)\s+(?=\S*\d|\S{16})[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {REDACTED}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)*"), REDACTED),
    (re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"), REDACTED),
    (
        re.compile(
            r"(?i)\b((?:[\w-]*(?:password|passwd|secret|api[_-]?key|identity[_-]?header)|(?:[\w-]*[_-])?token|sig)"
            r"['\"]?\s*[=:]\s*['\"]?)[^\s&'\",;}]{4,}"
        ),
        rf"\1{REDACTED}",
    ),
)
_DEPTH = 8  # deeper structures are rendered as text, and that is redacted too


def configure(
    level: str = "info", format: Literal["auto", "console", "json"] = "auto", stream: TextIO | None = None
) -> None:
    """Sends everything that is logged in this process to `stream` (stderr). May be called again."""
    stream = stream or sys.stderr
    as_json = format == "json" or (format == "auto" and not stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                _renderer(as_json, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    severity = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger("cupola").setLevel(severity)
    # Libraries report their own steps as "info": that is for who debugs.
    root.setLevel(severity if severity <= logging.DEBUG else max(severity, logging.WARNING))
    _route_uvicorn()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a later `configure` reaches loggers that were used before
    )


def _renderer(as_json: bool, stream: TextIO) -> structlog.typing.Processor:
    if as_json:
        return structlog.processors.JSONRenderer(default=str)
    return structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _route_uvicorn() -> None:
    """Start uvicorn with `log_config=None`: its loggers then speak through ours."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    access = logging.getLogger("uvicorn.access")
    access.handlers = []
    access.propagate = False
    access.disabled = True


def redact(logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Takes secrets out of an event: values by their name, texts by their look."""
    return {key: _redacted(key, value, _DEPTH) for key, value in event_dict.items()}


def _redacted(key: str, value: Any, depth: int) -> Any:
    if _is_secret(key) and not isinstance(value, bool | int | float | None):
        return REDACTED
    return _without_secrets(value, depth)


def _is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key.lower().replace("-", "_")) is not None


def _without_secrets(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if depth and isinstance(value, Mapping):
        return {str(key): _redacted(str(key), item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_redacted_item(item, depth - 1) for item in value]
    return redacted_text(value if isinstance(value, str) else str(value))


def _redacted_item(item: Any, depth: int) -> Any:
    """Headers come as pairs: the first of a pair names the second."""
    if isinstance(item, tuple) and len(item) == 2:
        name = item[0].decode(errors="replace") if isinstance(item[0], bytes) else str(item[0])
        return [name, _redacted(name, item[1], depth)]
    return _without_secrets(item, depth)


def redacted_text(text: str) -> str:
    """`text` without what looks like a token or stands after the name of a secret."""
    for pattern, replacement in _SECRET_TEXTS:
        text = pattern.sub(replacement, text)
    return text
