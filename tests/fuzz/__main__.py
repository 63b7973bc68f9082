"""`make fuzz`: at least ten thousand bad requests, from one seed, with the counts at the end."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.fuzz.bad_requests import from_schema, mutated
from tests.fuzz.run import AGENT, Found, Fuzzed
from tests.support.platform import open_platform

SHOWN = 40


async def fuzz(folder: Path, start: int, count: int) -> Found:
    """`count` requests, about half of either kind."""
    async with open_platform(folder, AGENT) as platform:
        fuzzed = Fuzzed(platform, start)
        await fuzzed.prepare()
        document = (await platform.call("GET", "/openapi.json")).json()
        operations = sum(len(path) for path in document["paths"].values())
        each = 2 * max(1, count // 4 // operations + 1)
        await fuzzed.send_all(from_schema(document, start, each))
        await fuzzed.send_all(mutated(start, max(count - fuzzed.found.sent, count // 2)))
        await fuzzed.answers_still()
    return fuzzed.found


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, default=10_000, help="at least so many")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cupola-fuzz-") as folder:
        found = asyncio.run(fuzz(Path(folder), arguments.seed, arguments.requests))
    for complaint in found.wrong[:SHOWN]:
        print(complaint)
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(found.statuses.items()))
    kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(found.kinds.items()))
    print(f"seed {arguments.seed}: {found.sent} requests in {time.monotonic() - began:.0f} s ({kinds})")
    print(f"answers {statuses}")
    print(f"wrong   {len(found.wrong)}")
    return 1 if found.wrong or found.sent < arguments.requests else 0


if __name__ == "__main__":
    sys.exit(main())
