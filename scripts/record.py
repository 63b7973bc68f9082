"""Runs a command in a pseudo-terminal and draws what it printed: `record.py docs/demo.svg 'make demo' make -s demo`.

For the picture in the README; run it again when the demo's output changes.
"""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 104


def printed_by(command: list[str]) -> str:
    """Everything that the command wrote to its terminal. Ends this program with the command's exit code if it fails."""
    os.environ["COLUMNS"] = str(COLUMNS)
    pieces: list[bytes] = []

    def read(descriptor: int) -> bytes:
        piece = os.read(descriptor, 4096)
        pieces.append(piece)
        return piece

    code = os.waitstatus_to_exitcode(pty.spawn(command, read))
    if code:
        sys.exit(code)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def main() -> None:
    target, title, *command = sys.argv[1:]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(f"[bold]$ {title}[/]")
    console.print(Text.from_ansi(printed_by(command)))
    # Without the fonts that rich would have a browser fetch from elsewhere.
    Path(target).write_text(re.sub(r"@font-face \{[^}]*\}", "", console.export_svg(title="Cupola")))


if __name__ == "__main__":
    main()
