"""`cupola stats` against the stub platform."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Command
from tests.cli.stub_platform import STATS

TABLE = """\
greeter, the last 24h: 1,205 requests, 3 errors.

VERSION  START  COUNT  ERRORS     P50     P90     P99  PLATFORM  SANDBOX  READINESS  RESPONSE
-        warm       1       1  0.4 ms  0.4 ms  0.4 ms     100 %        -          -         -
12       cold      14       2  812 ms  1.20 s  1.93 s       2 %     12 %       80 %       6 %
12       warm   1,190       0   12 ms   31 ms  120 ms       3 %        -          -      97 %

PROTOCOL     COUNT  ERRORS    P50    P90    P99
invocations     15       3  12 ms  12 ms  12 ms
responses    1,190       0  12 ms  12 ms  12 ms

"""


@pytest.mark.usefixtures("platform")
def test_a_table_that_fits(cupola: Command) -> None:
    """100 columns, and the numbers below each other."""
    shown = cupola("stats", "greeter")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(TABLE)
    assert max(len(line) for line in shown.stdout.splitlines()) <= 100


@pytest.mark.usefixtures("platform")
def test_what_the_platform_said_as_json(cupola: Command) -> None:
    """Untouched."""
    assert json.loads(cupola("stats", "greeter", "--output", "json").stdout) == STATS


@pytest.mark.usefixtures("platform")
def test_no_requests_are_a_sentence(cupola: Command) -> None:
    """Version, time and project go to the platform."""
    shown = cupola("stats", "greeter", "--version", "9", "--since", "7d", "--project", "other")
    assert shown.stdout == "greeter version 9: no requests in the last 7d.\n"


@pytest.mark.usefixtures("platform")
def test_an_unknown_agent_is_refused(cupola: Command) -> None:
    """With the platform's sentence and its exit code."""
    refused = cupola("stats", "nobody")
    assert refused.returncode == 5
    assert "does not exist" in refused.stderr
