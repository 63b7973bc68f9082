"""The calls by which agents begin to serve, made to stop first.

Runs in the agent's interpreter, so it knows the standard library only. `asyncio.run` is what the official adapters'
`app.run()` and hypercorn come down to; uvicorn may make its event loop before that and is stopped at its own call.
An event loop that was made before cannot be forked: children would share what it waits with.

What the official adapters set up for telemetry starts threads; that waits until after the fork.

Also here: the port. What the agent binds to the parent's, a child binds to its own, also when that was done before.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import socket
import socketserver
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

LOOP_MADE = "it makes its event loop before it serves; let asyncio.run or its server make it"


class Serving:
    """`stop` is called where the agent would serve and returns in each child; `refuse` never returns.

    `port` is one that nobody else has. `bound` are the sockets that the agent bound to it before the fork.
    """

    def __init__(self, port: int, stop: Callable[[], None], refuse: Callable[[str], NoReturn]) -> None:
        self.waiting = True
        """Whether the next such call is the place; not any more in a child."""
        self.bound: list[socket.socket] = []
        self._deferred: list[Callable[[], Any]] = []
        self._port = port
        self._own_port: int | None = None
        self._stop = stop
        self._refuse = refuse

    def intercept(self) -> None:
        """From here on; before any of the agent's code."""
        self._translate_port()
        self.stop_at(asyncio, "run")
        self.stop_at(asyncio.Runner, "run")
        self.stop_at(socketserver.BaseServer, "serve_forever")
        self._refuse_at(asyncio.BaseEventLoop, "run_forever")
        for name, then in (
            ("uvicorn.server", lambda module: self.stop_at(module.Server, "run")),
            ("microsoft.opentelemetry", lambda module: self._defer(module, "use_microsoft_opentelemetry")),
        ):
            sys.meta_path.insert(0, _AfterImport(name, then))

    def stop_at(self, owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def stopped(*arguments: Any, **named: Any) -> Any:
            if self.waiting:
                self._stop()
            return call(*arguments, **named)

        setattr(owner, name, stopped)

    def _refuse_at(self, owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def refused(*arguments: Any, **named: Any) -> Any:
            if self.waiting:
                self._refuse(LOOP_MADE)
            return call(*arguments, **named)

        setattr(owner, name, refused)

    def _defer(self, owner: Any, name: str) -> None:
        """Lets a call that starts threads, and whose answer nobody needs, wait for the fork."""
        call = getattr(owner, name)

        def deferred(*arguments: Any, **named: Any) -> Any:
            if not self.waiting:
                return call(*arguments, **named)
            self._deferred.append(partial(call, *arguments, **named))
            return None

        setattr(owner, name, deferred)

    def make_up(self) -> None:
        """In a child: the calls that waited. One that fails is told, and goes without, as the adapters have it."""
        for call in self._deferred:
            try:
                call()
            except Exception:
                traceback.print_exc()

    def import_for_later(self) -> None:
        """Imports what these calls are going to import, so that no child has to: a child finds out what that is."""
        if not self._deferred:
            return
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            before = set(sys.modules)
            self.waiting = False
            self.make_up()
            os.write(writer, "\n".join(name for name in sys.modules if name not in before).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as names:
            found = names.read().splitlines()
        os.waitpid(child, 0)
        for name in found:
            with contextlib.suppress(Exception):  # it may be no module to import by its name
                importlib.import_module(name)

    def _translate_port(self) -> None:
        own = socket.socket.bind

        def bind(this: socket.socket, address: Any) -> None:
            if isinstance(address, tuple) and address[1] == self._port:
                if self._own_port is None:
                    self.bound.append(this)
                else:
                    address = (address[0], self._own_port, *address[2:])
            own(this, address)

        socket.socket.bind = bind  # type: ignore[assignment, method-assign]  # every server binds through it

    def take_port(self, port: int) -> None:
        """In a child: what was bound before the fork is bound anew, under the same file descriptor."""
        self._own_port = port
        for old in self.bound:
            if old.fileno() == -1:
                continue
            with socket.socket(old.family, old.type, old.proto) as new:
                new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                new.bind(old.getsockname())  # the port becomes the child's: see above
                if old.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    new.listen(128)
                new.setblocking(old.gettimeout() != 0)
                os.dup2(new.fileno(), old.fileno(), inheritable=False)


class _AfterImport:
    """Finds one module as everybody does, and calls `then` with it as soon as it is there."""

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_tell(module: Any) -> None:
            load(module)
            self._then(module)

        spec.loader.exec_module = load_and_tell  # type: ignore[method-assign]  # of this one import
        return spec
