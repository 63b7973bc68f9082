"""What is not repeated in a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.secrecy import SHOWN, brief, looks_secret, looks_secret_as

TOKENS = (
    "sk-proj-" + "aB3d" * 8,
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1B2" * 9,
    "glpat-" + "aB3d" * 5,
    "xoxb-1234567890-abcdef",
    "AKIA" + "ABCD1234" * 2,
    "AIza" + "aB3d" * 9,
    "hf_" + "aB3d" * 8,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig",
    "-----BEGIN RSA PRIVATE KEY-----",
    "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=" + "aB3d" * 8 + "==;",
    "https://x.blob.core.windows.net/c?sv=1&sig=" + "aB3%2F" * 6,
    "postgresql://user:hunter2@db/x",
    "redis://:hunter2@cache:6379/0",
)


@pytest.mark.parametrize("token", TOKENS)
def test_well_known_tokens_are_seen(token: str) -> None:
    """By themselves and within other text, whatever their name; and a sentence does not repeat them."""
    assert looks_secret(token)
    assert looks_secret(f"value: {token} ")
    assert looks_secret_as("ANYTHING", token)
    assert token not in brief(token)
    assert str(len(token)) in brief(token)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_PASSWORD", "hunter2"),
        ("password", "correct horse"),
        ("CLIENT_SECRET", "x7~abc"),
        ("OPENAI_API_KEY", "0123456789abcdef0123456789abcdef"),
        ("SERVICE_TOKEN", "q8Zk2LmP0xVw93Rt"),
        ("AZURE_STORAGE_CONNECTION_STRING", "Endpoint=sb://x/;Name=a1b2c3"),
    ],
)
def test_names_make_values_suspicious(name: str, value: str) -> None:
    """A password is one whatever it looks like; a key has to look random."""
    assert looks_secret_as(name, value)
    assert not looks_secret_as("NOTE", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SORT_KEY", "created_at"),
        ("MAX_TOKENS", "4096"),
        ("PARTITION_KEY", "tenant-of-the-customer"),
        ("PASSWORD_FILE", "/run/secrets/db"),
        ("DB_PASSWORD", "/run/secrets/db"),
        ("KEY", ""),
        ("API_TOKEN", ""),
        ("TOKEN_URL", "https://login.example/oauth2/token"),
        ("MODEL_NAME", "gpt-4o-mini-2024-07-18"),
        ("PASSWORD_URL", "https://vault.example:8200/v1/db@prod"),
        ("IMAGE", "r.example/a@sha256:" + "0a" * 32),
    ],
)
def test_what_is_no_secret(name: str, value: str) -> None:
    """Warnings that cry wolf would be switched off in the head."""
    assert not looks_secret_as(name, value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x", "'x'"),
        ("x" * 100, "'" + "x" * 57 + "...'"),
        (None, "null"),
        (True, "true"),
        (5, "5"),
        ({"a": 1}, "an object with 1 member"),
        ({}, "an object with 0 members"),
        (["secret"], "a list of 1"),
        (b"x", "a list of 1"),
        (object(), "a value of type object"),
    ],
)
def test_values_in_sentences(value: object, shown: str) -> None:
    """As JSON spells them, containers by their size."""
    assert brief(value) == shown


@given(st.text())
def test_sentences_stay_short(text: str) -> None:
    """However long a value is, and whatever it holds."""
    assert len(brief(text)) <= 10 * SHOWN + 2  # a character may be shown as an escape of ten
