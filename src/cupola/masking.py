"""Taking secrets out of what leaves the platform for other eyes: debug bundles.

Nothing stays by chance. Of variables only those values stay that are plainly harmless, by their kind or by what their
name says; all others are masked, and wherever else a masked value turns up it is masked as well: in output, in what was
said, in file names. What has the shape of a token is masked wherever it stands, and so are the platform's own tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from cupola.logs import redacted_text
from cupola.secrecy import looks_secret, looks_secret_as, secret_shapes

MASKED = "***"

_WORD = re.compile(r"[A-Za-z]{1,7}")
_SHORTEST = 4
"""Characters of a masked value that is looked for elsewhere; shorter ones would take half of every text along."""
_LINE = 8
"""Characters of a line of a masked value that is looked for by itself."""

_HARMLESS = re.compile(
    r"(?i)true|false|yes|no|on|off|none|null|auto|default|[0-9]{1,6}(?:\.[0-9]{1,4})?"
    r"|trace|debug|info|warn|warning|error|critical|dev|development|test|testing|staging|prod|production|local"
    r"|utf-?8|[a-z]{2}_[A-Z]{2}\.utf-?8|C\.utf-?8|utc|json|text|console"
)
_TELLING = re.compile(
    r"(?i)(?:^|_)(?:MODEL|MODELS|MODEL_NAME|DEPLOYMENT|DEPLOYMENT_NAME|LEVEL|MODE|REGION|LOCATION|TIMEOUT|PORT|HOST|LANG"
    r"|TZ|TIMEZONE|VERSION|ENDPOINT|URL|URI|DIR|DIRECTORY|PATH|FORMAT|ENVIRONMENT|ENV|BACKEND|HOSTING_ENVIRONMENT)$"
)
_SUSPICIOUS = re.compile(
    r"(?i)(?:^|_)(?:PIN|OTP|CODE|PASS|PASSCODE|PW|PWD|PASSWORD|SECRET|KEY|TOKEN|AUTH|SIG|SALT|SEED)(?:_|$)"
)
_PLAIN = re.compile(r"[A-Za-z0-9 ._:/,@+-]{1,200}")
_OF_PLATFORM = re.compile(
    r"FOUNDRY_[A-Z_]+|AGENT_(?:NAME|ID)|AGENTSERVER_TASKS_BACKEND|AZURE_TOKEN_CREDENTIALS|IDENTITY_ENDPOINT"
)
"""What the platform sets and no definition can; it names things, and opens none."""
_PROJECT_ADDRESS = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/api/projects/[A-Za-z0-9_-]+/?")
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_SHAPES = re.compile(rf"(?:{secret_shapes()}|call_[A-Za-z0-9_-]{{16,}}\.)[A-Za-z0-9_\-/+=%]*")
"""The shapes of tokens, the ids under which containers call back among them, to the end of what belongs to them."""
_IN_HEADERS = frozenset({"headers", "credentials", "auth", "authorization"})


def is_harmless(name: str, value: str) -> bool:
    """Whether a variable may be shown with its value."""
    if not value or _OF_PLATFORM.fullmatch(name):
        return True
    if looks_secret_as(name, value) or _SUSPICIOUS.search(name):
        return False
    if _HARMLESS.fullmatch(value) or (name.endswith("ENDPOINT") and _PROJECT_ADDRESS.fullmatch(value)):
        return True
    if not _TELLING.search(name) or not _PLAIN.fullmatch(value):
        return False
    return not any(looks_secret_as("key", part) for part in re.split(r"[/:@ ,]", value)) and _is_plain_address(value)


def _is_plain_address(value: str) -> bool:
    """Whether it is no address, or one without user, query and path: services put their keys there."""
    parts = urlsplit(value) if "://" in value else None
    return parts is None or not (parts.username or parts.password or parts.query or parts.path.strip("/"))


def shown_variables(variables: Mapping[str, str]) -> dict[str, str | None]:
    """Every name, by its order; None in place of a value that is not shown."""
    return {name: value if is_harmless(name, value) else None for name, value in sorted(variables.items())}


def hidden_values(variables: Mapping[str, str]) -> list[str]:
    """The values that `shown_variables` does not show, and that must not be seen elsewhere either.

    A short word that nothing says is secret is not among them: it would be missing from half of what was said.
    """
    return [
        value
        for name, value in variables.items()
        if not is_harmless(name, value) and (_SUSPICIOUS.search(name) or not _WORD.fullmatch(value))
    ]


class Mask:
    """Masks in texts and JSON. `secrets` are values that are masked wherever they stand."""

    def __init__(self, secrets: Iterable[str]) -> None:
        found = {form for secret in secrets for form in _forms(secret)}
        longest_first = sorted(found, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """What somebody has said: nothing but secrets is changed."""
        if self._known is not None:
            text = self._known.sub(MASKED, text)
        return _SHAPES.sub(MASKED, _KEY.sub(MASKED, text)) if looks_secret(text) or "call_" in text else text

    def output(self, text: str) -> str:
        """What a program has printed: also what stands behind `password=` and the like."""
        return redacted_text(self.text(text))

    def json(self, value: Any, name: str = "") -> Any:
        """Every text within; under names that say so, whatever it is."""
        if isinstance(value, str):
            text = self.text(value)
            return MASKED if name in _IN_HEADERS or looks_secret_as(name, text) else text
        if isinstance(value, Mapping):
            within = name if name in _IN_HEADERS else None
            return {self.text(str(key)): self.json(item, within or str(key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.json(item, name) for item in value]
        return value


class OutputMask:
    """Masks the lines of one sandbox, one after the other: a private key is spread over many."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._in_key = False

    def line(self, text: str) -> str:
        begins = "-----BEGIN " in text and "PRIVATE KEY" in text
        hidden = self._in_key or begins
        self._in_key = hidden and "-----END " not in text
        return MASKED if hidden else self._mask.output(text)


def _forms(secret: str) -> Iterable[str]:
    """A secret as it may stand in texts: itself, within JSON, and its lines."""
    if len(secret) < _SHORTEST:
        return
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line.strip() for line in lines if len(line.strip()) >= _LINE)
