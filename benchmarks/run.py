"""`python benchmarks/run.py` is `python -m benchmarks`, from wherever it is called."""

import runpy
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)
runpy.run_module("benchmarks", run_name="__main__", alter_sys=True)
