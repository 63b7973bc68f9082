"""What an agent has read before the fork, and how a child makes it its own.

Runs in the agent's interpreter, so it knows the standard library only. A parent has no session. In place of what
differs from sandbox to sandbox (session id, credentials) it is given *stand-ins*: words that occur nowhere else.
Before the first fork the whole heap is searched for them. Where all lie in places that can be written, each child
writes its own values there; where one lies elsewhere, the agent is not forked at all. So no child ever has the values
of another, and none is left with a stand-in. Left out is what was computed from one (a hash of the session id).
"""

from __future__ import annotations

import gc
import os
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

Write = Callable[[str], None]
Held = list[tuple[str, Write]]
"""What was found: the string with its stand-ins, and how to put another in its place."""


OURS = ("fork_values", "fork_bootstrap")
"""The modules whose variables are no agent's."""


class Fixed(Exception):
    """A stand-in lies where nothing can be written; the message says which, and in what."""


def find(standins: Mapping[str, str]) -> Held:
    """Every string that holds a stand-in (`standins`: name to word). Raises `Fixed`."""
    gc.collect()
    search = _Search(standins)
    objects = gc.get_objects()
    for holder in objects:
        if isinstance(holder, type):
            search.classes.update((id(one), holder) for one in gc.get_referents(holder) if type(one) is dict)
    for holder in objects:
        search.look_into(holder)
    search.look_into_frames(sys._getframe(1))
    return search.found


class _Search:
    def __init__(self, standins: Mapping[str, str]) -> None:
        self.found: Held = []
        self.classes: dict[int, type] = {}
        """The namespaces of classes, by id: they are written through their class only."""
        self._standins = standins
        self._skipped = {id(self.found), id(standins), id(os.environ._data)}  # type: ignore[attr-defined]  # private

    def look_into(self, holder: Any) -> None:
        if id(holder) in self._skipped:
            return
        for value in gc.get_referents(holder):
            kind = type(value)
            if kind is str or kind is bytes:
                name = self._named(value)
                if name is not None:
                    self.found.extend((value, write) for write in self._places(holder, value, name))
            elif (kind is dict or kind is tuple) and not gc.is_tracked(value):
                # Containers of plain values are not tracked: they are seen only from what holds them.
                self.look_into(value)

    def look_into_frames(self, frame: types.FrameType | None) -> None:
        """Local variables of the functions that are running cannot be written."""
        while frame is not None:
            if frame.f_locals is not frame.f_globals and frame.f_globals.get("__name__") not in OURS:
                for variable, value in frame.f_locals.items():
                    name = self._named(value) if type(value) in (str, bytes) else None
                    if name is not None:
                        raise Fixed(f"a function that is running keeps {name} in its variable {variable}")
            frame = frame.f_back

    def _named(self, value: Any) -> str | None:
        if len(value) >= 32:
            for name, word in self._standins.items():
                key = word.rpartition("/")[2]  # of a path there may be parts
                if (key if type(value) is str else key.encode()) in value:
                    return name
        return None

    def _places(self, holder: Any, value: Any, name: str) -> list[Write]:
        """How to write where in `holder` the `value` lies."""
        writers: list[Write] = []
        whole = type(value) is str and self._standins[name] in value
        if not whole or isinstance(holder, (type, types.FunctionType)):
            pass  # what to put in place of a part is not known, nor how to write there
        elif id(holder) in self.classes:
            owner = self.classes[id(holder)]
            writers = [partial(type.__setattr__, owner, key) for key, held in holder.items() if held is value]
        elif isinstance(holder, dict):
            writers = [partial(holder.__setitem__, key) for key, held in holder.items() if held is value]
        elif isinstance(holder, list):
            writers = [partial(holder.__setitem__, index) for index, held in enumerate(holder) if held is value]
        elif isinstance(holder, types.CellType):
            writers = [partial(setattr, holder, "cell_contents")]
        else:
            writers = [partial(object.__setattr__, holder, key) for key in _attributes(holder, value)]
        if not writers:
            kind = type(holder).__module__ + "." + type(holder).__qualname__
            raise Fixed(f"it keeps {name} in a {kind.replace('builtins.', '')} before it serves")
        return writers


def _attributes(holder: Any, value: Any) -> Iterator[str]:
    """The names under which an instance holds `value`, in its `__dict__` or in slots."""
    yield from [name for name, held in getattr(holder, "__dict__", {}).items() if held is value]
    for owner in type(holder).__mro__:
        for name, member in vars(owner).items():
            if isinstance(member, types.MemberDescriptorType) and getattr(holder, name, None) is value:
                yield name


def replace(held: Held, standins: Mapping[str, str], values: Mapping[str, str]) -> None:
    """Puts the values of one sandbox where the stand-ins are."""
    for text, write in held:
        for name, word in standins.items():
            text = text.replace(word, values.get(name, ""))
        write(text)


def reseed() -> None:
    """No two children draw the same numbers. Generators that the agent made itself go on as they were."""
    random.seed()
    modules: dict[str, Any] = sys.modules
    if "numpy" in modules and "numpy.random" in modules:
        modules["numpy"].random.seed()
    if "torch" in modules:
        modules["torch"].manual_seed(int.from_bytes(os.urandom(8), "little") >> 1)
