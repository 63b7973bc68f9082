"""No secret is logged, by us or by a library, in whatever shape."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from cupola import logs

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Leaves logging as pytest wants it."""
    root, ours, access = (logging.getLogger(name) for name in (None, "cupola", "uvicorn.access"))
    before = (root.handlers[:], root.level, ours.level, access.disabled, access.propagate)
    yield
    root.handlers[:], root.level, ours.level, access.disabled, access.propagate = before
    structlog.reset_defaults()


def logged(**event: object) -> dict[str, object]:
    """An event as the JSON line that it becomes."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    structlog.get_logger("cupola.test").info("happened", **event)
    found = json.loads(stream.getvalue())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "key",
    [
        "authorization", "Authorization", "token", "access_token", "x-identity-header", "identity_header", "password",
        "client_secret", "secret", "api_key", "api-key", "apikey", "Cookie", "connection_string", "private_key",
    ],
)  # fmt: skip
def test_values_of_secrets_are_taken_out_by_name(key: str) -> None:
    """However deep, and whatever the value's type."""
    assert logged(**{key: "hunter2"})[key] == logs.REDACTED
    assert logged(request={"headers": [{key: b"hunter2"}]})["request"] == {"headers": [{key: logs.REDACTED}]}
    assert "hunter2" not in str(logged(**{key: {"inner": ["hunter2"]}}))
    assert "hunter2" not in str(logged(headers=[(key.encode(), b"hunter2")]))


@pytest.mark.parametrize("key", ["input_tokens", "max_tokens", "token_type", "author", "tokens"])
def test_what_only_sounds_like_a_secret_stays(key: str) -> None:
    """Counts of tokens are wanted in logs."""
    assert logged(**{key: "12"})[key] == "12"
    assert logged(token=None, secret=True)["secret"] is True


@pytest.mark.parametrize(
    "text",
    [
        f"sent Authorization: Bearer {JWT}",
        "bearer abcdef0123456789",
        f"the token was {JWT}!",
        "postgresql://me:hunter2-abcdef@db/x",
        "GET /x?api_key=hunter2-abcdef&b=1",
        "{'client_secret': 'hunter2-abcdef'}",
        "IDENTITY_HEADER=hunter2-abcdef",
        'json {"access_token": "hunter2-abcdef"}',
    ],
)
def test_texts_that_look_like_secrets_are_taken_out(text: str) -> None:
    """In values, in messages of libraries, in their arguments and in tracebacks."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    structlog.get_logger("cupola.test").warning(text, value=text, deep=[{"a": text}])
    logging.getLogger("library").warning("it says %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        structlog.get_logger("cupola.test").exception("failed")
        logging.getLogger("library").exception("failed")
    said = stream.getvalue()
    assert len(said.splitlines()) == 4
    assert said.count("Traceback") == 2
    for secret in (JWT, "hunter2", "abcdef0123456789"):
        assert secret not in said


@given(token=st.from_regex(r"[A-Za-z0-9._~+/-]{20,40}", fullmatch=True), around=st.text(max_size=20))
def test_no_bearer_token_survives(token: str, around: str) -> None:
    """Whatever stands around it."""
    assert token not in logs.redacted_text(f"{around} Bearer {token}")


def test_what_is_no_secret_is_left_alone() -> None:
    """Sentences about tokens keep their words."""
    text = "A token is missing: send Authorization with a bearer token. https://localhost:8443/api/projects/demo"
    assert logs.redacted_text(text) == text


def test_the_console_shows_no_secret_either() -> None:
    """The same net under the form for people."""
    stream = io.StringIO()
    logs.configure("info", "console", stream)
    structlog.get_logger("cupola.test").info("happened", token="hunter2", agent="a1")
    assert "hunter2" not in stream.getvalue()
    assert "agent=a1" in stream.getvalue()


def test_uvicorn_speaks_through_us_and_keeps_no_access_log() -> None:
    """Its errors have our shape; requests are logged by our own code."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logging.getLogger("uvicorn.error").warning("trouble")
    logging.getLogger("uvicorn.access").critical("GET /")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line).items() >= {"event": "trouble", "level": "warning", "logger": "uvicorn.error"}.items()


def test_libraries_are_heard_from_warnings_on() -> None:
    """Their steps are for `debug`; ours are `info`."""
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logging.getLogger("alembic").info("step")
    structlog.get_logger("cupola.test").info("ours")
    structlog.get_logger("cupola.test").debug("too fine")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["ours"]
    logs.configure("debug", "json", stream)
    logging.getLogger("alembic").info("step")
    assert "step" in stream.getvalue()


def test_auto_is_json_where_nobody_reads_along() -> None:
    """`auto` asks the stream whether it is a terminal."""
    stream = io.StringIO()
    logs.configure("info", "auto", stream)
    structlog.get_logger("cupola.test").info("happened")
    assert json.loads(stream.getvalue())["event"] == "happened"
