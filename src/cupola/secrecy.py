"""What must not be repeated: telling secrets from other values, and showing a caller's value in a sentence.

Errors name the value at fault, and errors end up in logs, terminals and issues. So whatever quotes a caller's value
goes through `brief`. The shapes are those of widely used tokens; their makers chose them so that they can be found.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

SHOWN = 60
"""Characters of a caller's text that a sentence repeats."""

_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\."  # JSON web tokens
    r"|\b(?:sk|rk|pk)-[A-Za-z0-9_-]{16,}"
    r"|\b(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|\bgh[opsur]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\bxox[abeoprs]-[A-Za-z0-9-]{10,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{30,}|\bhf_[A-Za-z0-9]{20,}|\bnpm_[A-Za-z0-9]{30,}"
    r"|\bpypi-[A-Za-z0-9_-]{16,}|\bdop_v1_[a-f0-9]{32,}"
    r"|(?i:\b(?:account|sharedaccess)key=)[A-Za-z0-9+/=]{16,}|(?i:[?&]sig=)[A-Za-z0-9%+/=_-]{16,}"
    r"|://[^/\s:@]*:[^/\s@]+@"  # a password within an address
)
_NAMES = re.compile(
    r"(?i)(?:^|[_-])(?:(?P<sure>password|passwd|pwd|passphrase|secret|credentials?)|key|apikey|token|pat)$"
    r"|connection_?string$"
)
_WORTH_HIDING = 16
"""Characters from which on a random-looking value may be a key."""
_RANDOM = 3.0
"""Bits per character; identifiers made of words repeat their letters more."""


def secret_shapes() -> str:
    """The expression for the beginnings of well-known tokens, to build others with."""
    return _SHAPES.pattern


def looks_secret(value: str) -> bool:
    """Whether a text has, or holds, the shape of a well-known token."""
    return _SHAPES.search(value) is not None


def looks_secret_as(name: str, value: str) -> bool:
    """Whether `value` is likely to be a secret, considering that it stands under `name`.

    Under names such as `DB_PASSWORD` every text counts that is no path and no plain address; under `API_KEY` or
    `GITHUB_TOKEN` only what looks random, since `SORT_KEY=created` is common.
    """
    if looks_secret(value):
        return True
    named = _NAMES.search(name)
    if named is None:
        return False
    if named["sure"]:
        return len(value) >= 4 and not value.startswith("/") and "://" not in value
    return _looks_random(value)


def _looks_random(value: str) -> bool:
    if len(value) < _WORTH_HIDING or any(character.isspace() for character in value):
        return False
    if not (any(c.isdigit() for c in value) and any(c.isalpha() for c in value)):
        return False
    counted = Counter(value).values()
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counted)
    return bits >= _RANDOM


def brief(value: object) -> str:
    """A caller's value for a sentence: shortened, containers by their size only, and nothing that may be a secret."""
    if isinstance(value, str):
        if looks_secret(value):
            return f"a text of {len(value)} characters that looks like a secret"
        return repr(value if len(value) <= SHOWN else value[: SHOWN - 3] + "...")
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return f"an object with {len(value)} member{'' if len(value) == 1 else 's'}"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    return f"a value of type {type(value).__name__}"
