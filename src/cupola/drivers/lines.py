"""Cutting what sandboxes write into lines that can be kept."""

from __future__ import annotations

from cupola.drivers.base import LONGEST_LINE

_LONGEST_CHARACTER = 4


def cut_lines(data: bytes) -> list[str]:
    """The lines of `data`; those that are too long are cut, and bytes that are no text are marked as such."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [piece.decode(errors="replace").removesuffix("\r") for line in lines for piece in _pieces(line)]


def cut_length(data: bytes) -> int:
    """How much of a line that is too long goes into its next piece: no character of UTF-8 is torn."""
    if len(data) <= LONGEST_LINE:
        return len(data)
    for length in range(LONGEST_LINE, LONGEST_LINE - _LONGEST_CHARACTER, -1):
        if data[length] & 0xC0 != 0x80:
            return length
    return LONGEST_LINE


def _pieces(line: bytes) -> list[bytes]:
    pieces = []
    while len(line) > LONGEST_LINE:
        length = cut_length(line)
        pieces.append(line[:length])
        line = line[length:]
    return [*pieces, line]
