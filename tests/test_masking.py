"""What a bundle may show, and what not."""

from __future__ import annotations

import json

import pytest

from cupola.masking import MASKED, Mask, OutputMask, hidden_values, is_harmless, shown_variables


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEBUG", "true"), ("WORKERS", "4"), ("LOG_LEVEL", "info"), ("MODEL_DEPLOYMENT_NAME", "gpt-4.1-mini"),
        ("AZURE_AI_PROJECT_ENDPOINT", "https://localhost:8443/api/projects/demo"),
        ("BASE_URL", "http://localhost:8000"), ("TZ", "Europe/Berlin"), ("EMPTY", ""),
        ("FOUNDRY_AGENT_NAME", "greeter"), ("DATA_DIR", "/srv/data"),
    ],
)  # fmt: skip
def test_plainly_harmless_values_stay(name: str, value: str) -> None:
    """They say how an agent is set up."""
    assert is_harmless(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FOO", "correct horse battery staple"), ("DB_PASSWORD", "hunter2"), ("API_KEY", "9f86d081884c7d659a2f"),
        ("PIN", "8461"), ("SERIAL", "8461943"), ("DATABASE_URL", "postgres://u:p@db/x"),
        ("AZURE_AI_PROJECT_ENDPOINT", "https://u:p@x/api/projects/demo"), ("HOOK_URL", "https://hooks.example/T0/B0/xyz"),
        ("SAS_URL", "https://s.example?sig=abc"), ("MODEL", "sk-aaaaaaaaaaaaaaaaaaaaaaaa"), ("CODE", "abcd"),
        ("BASE_URL", "https://api-9f86d081884c7d659a2f.example"), ("IDENTITY_HEADER", "sbx-1.abcdef"),
    ],
)  # fmt: skip
def test_everything_else_does_not(name: str, value: str) -> None:
    """Whatever it is called."""
    assert not is_harmless(name, value)


def test_names_stay() -> None:
    """Who replays must know what to give."""
    variables = {"B": "s3cret-value", "A": "true", "C": "friend"}
    assert shown_variables(variables) == {"A": "true", "B": None, "C": None}
    assert hidden_values(variables) == ["s3cret-value"]


def test_a_masked_value_is_masked_wherever_it_stands() -> None:
    """In texts, names, JSON within texts, and line by line."""
    secret = 'line one of "it"\nline two of it'
    mask = Mask([secret, "hunter2!", "abc"])
    said = {"a hunter2!": ["x hunter2! y", {"arguments": json.dumps({"s": secret})}], "n": 1, "z": "abc"}
    shown = json.dumps(mask.json(said))
    assert "hunter2" not in shown
    assert "line two" not in shown
    assert mask.text("before line two of it after") == f"before {MASKED} after"
    assert '"abc"' in shown  # three letters are in every second word
    assert '"n": 1' in shown


@pytest.mark.parametrize(
    "token",
    [
        "sk-" + "a1" * 12,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.s1gnatureS1gnature",
        "ghp_" + "A1" * 18,
        "call_WyJ1c2VyIiwiYTEiXQ.0123456789abcdef0123456789abcdef",
    ],
)
def test_tokens_are_masked_to_their_end(token: str) -> None:
    """What is left of one could still be the half that counts."""
    assert Mask([]).text(f"use {token} now") == f"use {MASKED} now"


def test_names_tell_what_is_under_them() -> None:
    """Headers of tools hold credentials of any shape."""
    tool = {"headers": {"X-Own": "plain"}, "password": "swordfish", "type": "mcp", "server_label": "docs"}
    assert Mask([]).json([tool]) == [
        {"headers": {"X-Own": MASKED}, "password": MASKED, "type": "mcp", "server_label": "docs"}
    ]


def test_a_private_key_is_masked_over_all_its_lines() -> None:
    """In what a program prints, one line after the other, and in one text."""
    lines = ["ok", "-----BEGIN RSA PRIVATE KEY-----", "MIIEabc", "-----END RSA PRIVATE KEY-----", "password=swordfish"]
    printed = OutputMask(Mask([]))
    shown = [printed.line(line) for line in lines]
    assert shown[:4] == ["ok", MASKED, MASKED, MASKED]
    assert "swordfish" not in shown[4]
    assert Mask([]).text("\n".join(lines[:4]) + "\nafter") == f"ok\n{MASKED}\nafter"
