"""The commands' way to the platform: a few JSON requests over https, signed in as the owner of the installation.

Agents and their clients use the official SDKs; this is for our own commands, so it needs nothing that is not in the
standard library, and it stays synchronous.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, Self

from cupola.errors import (
    BadRequest,
    Conflict,
    CupolaError,
    Forbidden,
    NotFound,
    NotServed,
    PayloadTooLarge,
    QuotaExceeded,
    Unauthenticated,
)
from cupola.installation import Layout, NotRunning, Running, read_running

_AUDIENCE = "https://ai.azure.com"
_PIECE = 64 * 1024
_IDENTITY_API = "2019-08-01"
_REFUSALS: dict[int, type[CupolaError]] = {
    400: BadRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: PayloadTooLarge,
    429: QuotaExceeded,
    501: NotServed,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The object in the body; an empty one where there is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def error(self) -> Mapping[str, Any]:
        """The envelope of a refusal; empty where there is none."""
        found = self.json.get("error")
        return found if isinstance(found, dict) else {}

    @property
    def refusal(self) -> CupolaError:
        """Our error for an answer that is a refusal."""
        message = self.error.get("message") or f"The platform answered {self.status} without saying why."
        return _REFUSALS.get(self.status, CupolaError)(str(message), code=self.error.get("code"))


def _answer(status: int, headers: Message, body: bytes) -> Answer:
    return Answer(status, {name.lower(): value for name, value in headers.items()}, body)


class Client:
    """Speaks with one running platform."""

    def __init__(self, running: Running, identity_header: str, authority: Path, *, timeout: float = 30) -> None:
        self.running = running
        self._identity_header = identity_header
        self._timeout = timeout
        self._token: str | None = None
        context = ssl.create_default_context(cafile=authority)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),  # this machine is reached without any proxy
            urllib.request.HTTPSHandler(context=context),
        )

    @classmethod
    def of(cls, state_dir: Path, *, timeout: float = 30) -> Self:
        """A client for the platform that runs with this state directory. Raises NotRunning."""
        running, layout = read_running(state_dir), Layout(state_dir)
        if running is None:
            raise NotRunning(f"No platform runs with state directory {state_dir}: start one with `cupola up`.")
        return cls(running, layout.identity_header.read_text().strip(), layout.ca / "ca.pem", timeout=timeout)

    @property
    def project(self) -> str:
        """The project that the platform names in its endpoint."""
        return self.running.endpoint.rpartition("/")[2]

    def own(self, agent: str, project: str | None = None) -> str:
        """The path of what Cupola itself offers for an agent, by default of the platform's project."""
        return f"/cupola/{self._where(agent, project)}"

    def wire(self, agent: str, project: str | None = None) -> str:
        """The path of an agent on the wire, likewise."""
        return f"/api/{self._where(agent, project)}"

    def _where(self, agent: str, project: str | None) -> str:
        project = urllib.parse.quote(project or self.project, safe="")
        return f"projects/{project}/agents/{urllib.parse.quote(agent, safe='')}"

    def get(self, path: str) -> Any:
        """The JSON at `path` (from the root of the host)."""
        return self._authorized("GET", path, None)

    def lines(self, path: str) -> Iterator[Any]:
        """The JSON objects at `path`, one a line, as they come, for as long as they do; None for an empty line.

        Empty lines are signs of life of a platform that waits for something: silence for longer than the client's
        timeout is an error, and so is an end in the middle.
        """
        request = self._request("GET", path)
        request.add_header("Authorization", f"Bearer {self.token()}")
        with self._told(), self._opener.open(request, timeout=self._timeout) as reply:
            for line in reply:
                yield _parsed(line.strip(), request)

    def pieces(self, path: str) -> Iterator[bytes]:
        """The bytes at `path`, as they come."""
        request = self._request("GET", path)
        request.add_header("Authorization", f"Bearer {self.token()}")
        with self._told(), self._opener.open(request, timeout=self._timeout) as reply:
            while piece := reply.read(_PIECE):
                yield piece

    def ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Answer:
        """What the platform answers, also where it refuses: for those who look at refusals."""
        request = self._request(method, path)
        for name, value in headers.items():
            request.add_header(name, value)
        request.add_header("Authorization", f"Bearer {self.token()}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        with self._told():
            try:
                with self._opener.open(request, timeout=self._timeout) as reply:
                    return _answer(reply.status, reply.headers, reply.read())
            except urllib.error.HTTPError as error:
                with error:
                    return _answer(error.code, error.headers, error.read())

    def post(self, path: str, body: Any) -> Any:
        return self._authorized("POST", path, body)

    def delete(self, path: str) -> Any:
        return self._authorized("DELETE", path, None)

    def health(self) -> None:
        """Returns when the platform answers; raises otherwise."""
        self._exchange(self._request("GET", "/cupola/health"))

    def token(self) -> str:
        """A bearer token of this user, from the local sign-in."""
        if self._token is None:
            query = urllib.parse.urlencode({"api-version": _IDENTITY_API, "resource": _AUDIENCE})
            url = f"http://127.0.0.1:{self.running.identity_port}/msi/token?{query}"
            reply = self._exchange(urllib.request.Request(url, headers={"X-IDENTITY-HEADER": self._identity_header}))
            self._token = str(reply["access_token"])
        return self._token

    def _authorized(self, method: str, path: str, body: Any) -> Any:
        request = self._request(method, path)
        request.add_header("Authorization", f"Bearer {self.token()}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        return self._exchange(request)

    def _request(self, method: str, path: str) -> urllib.request.Request:
        return urllib.request.Request(self.running.base_url + path, method=method)  # noqa: S310 - our own https URL

    def _exchange(self, request: urllib.request.Request) -> Any:
        with self._told(), self._opener.open(request, timeout=self._timeout) as reply:
            return _parsed(reply.read(), request)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong on the way, as our errors."""
        try:
            yield
        except urllib.error.HTTPError as error:
            raise _refusal(error) from error
        except urllib.error.URLError as error:
            raise self._unreachable(error.reason) from error
        except OSError as error:  # a time-out or a reset while the body is read
            raise self._unreachable(error) from error
        except http.client.HTTPException as error:  # it ended in the middle
            raise CupolaError(f"The platform at {self.running.base_url} broke off its answer.") from error

    def _unreachable(self, reason: str | BaseException) -> CupolaError:
        where = f"{self.running.base_url} (pid {self.running.pid})"
        if isinstance(reason, ConnectionRefusedError):
            return NotRunning(f"Nothing listens at {where}: the platform stops or starts just now; try again.")
        if isinstance(reason, TimeoutError):
            return CupolaError(f"The platform at {where} did not answer within {self._timeout:g} s: see its log.")
        if isinstance(reason, ssl.SSLCertVerificationError):
            return CupolaError(f"What listens at {where} is not this platform: {reason.verify_message}.")
        return CupolaError(f"The platform at {where} cannot be reached: {reason}.")


def _parsed(body: bytes, request: urllib.request.Request) -> Any:
    if not body:
        return None
    try:
        return json.loads(body)
    except ValueError as error:
        raise CupolaError(f"The platform's answer to {request.selector} is not JSON.") from error


def _refusal(error: urllib.error.HTTPError) -> CupolaError:
    """Our error for a reply that is one, with the sentence of its envelope."""
    with error:
        body = error.read()
    try:
        envelope = json.loads(body)["error"]
        message, code = str(envelope["message"]), str(envelope["code"])
    except (ValueError, KeyError, TypeError):
        message, code = f"The platform answered {error.code} {error.reason} without saying why.", None
    return _REFUSALS.get(error.code, CupolaError)(message, code=code)
