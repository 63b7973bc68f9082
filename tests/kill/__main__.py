"""`make test-kill`: kills at random points, from one seed, with the counts at the end."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.kill.counts import Counts
from tests.kill.fake import kill_on_fake
from tests.kill.served import kill_on_served
from tests.support.served import engine_complaint

SHOWN = 40


async def _kill(folder: Path, arguments: argparse.Namespace, counts: Counts) -> None:
    seed = arguments.seed
    await kill_on_fake(folder / "fake", seed, arguments.rounds_fake, counts)
    if arguments.rounds_process:
        await kill_on_served(folder / "process", "process", seed, arguments.rounds_process, counts)
    if arguments.rounds_docker:
        complaint = engine_complaint()
        if complaint is None:
            await kill_on_served(folder / "docker", "docker", seed, arguments.rounds_docker, counts)
        else:
            counts.left_out.append(f"docker: {complaint}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-kill", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds-fake", type=int, default=500)
    parser.add_argument("--rounds-process", type=int, default=200)
    parser.add_argument("--rounds-docker", type=int, default=20)
    parser.add_argument("--log", default="critical", help="least severity of the platform's log that is shown")
    arguments = parser.parse_args()
    level = logging.getLevelNamesMapping()[arguments.log.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever was started is stopped and removed
    counts = Counts()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cupola-kill-") as folder:
        asyncio.run(_kill(Path(folder), arguments, counts))
    for complaint in counts.wrong[:SHOWN]:
        print(complaint)
    print(f"seed {arguments.seed}, {time.monotonic() - began:.0f} s")
    print(counts.report())
    promised = bool(os.environ.get("CUPOLA_REQUIRE_ENGINE"))
    return 1 if counts.wrong or (promised and counts.left_out) else 0


if __name__ == "__main__":
    sys.exit(main())
