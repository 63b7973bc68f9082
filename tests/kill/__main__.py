"""`make test-kill`: kills at random points, from one seed, with the counts at the end."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.kill.counts import Counts
from tests.kill.fake import kill_on_fake

SHOWN = 40


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-kill", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds-fake", type=int, default=500)
    parser.add_argument("--log", default="critical", help="least severity of the platform's log that is shown")
    arguments = parser.parse_args()
    level = logging.getLevelNamesMapping()[arguments.log.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    counts = Counts()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cupola-kill-") as folder:
        asyncio.run(kill_on_fake(Path(folder), arguments.seed, arguments.rounds_fake, counts))
    for complaint in counts.wrong[:SHOWN]:
        print(complaint)
    print(f"seed {arguments.seed}, {time.monotonic() - began:.0f} s")
    print(counts.report())
    return 1 if counts.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
