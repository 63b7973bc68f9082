"""Every error that Cupola raises on purpose, as one small tree.

    CupolaError
    ├── BadRequest           the caller sent something that cannot be
    ├── Unauthenticated      no token, or one that we did not make
    ├── Forbidden            a known caller who may not do this
    ├── NotFound             no such object
    ├── Conflict             the object is in a state that forbids it
    ├── PreconditionFailed   the object is not as If-Match wants it; carries its etag
    ├── SessionNotReady      a sandbox did not come up; carries the evidence
    ├── QuotaExceeded        a limit of this installation is reached
    ├── PayloadTooLarge      more bytes than the documented limit
    ├── RangeNotSatisfiable  a part of a file that it does not have; carries its size
    ├── NotServed            a known operation that Cupola does not offer
    ├── SandboxLost          the sandbox went away, or spoke no HTTP, while it served a request
    ├── StartFailed          a sandbox could not be made: phase, code, exit code
    ├── DriverUnavailable    the place where sandboxes run cannot be used
    ├── IssuerUnavailable    the issuer of callers' tokens cannot be asked for its keys
    └── SetupError           the platform cannot start here (port, state directory, database)

`code` is what stands in Foundry's envelope (`error.code`); `web/errors.py` holds the one table that turns
classes into HTTP. What is not a `CupolaError` is internal: logged in full, shown as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cupola.timings import Start


class CupolaError(Exception):
    """A failure that we can name.

    `message` is one sentence for a person: what failed, where, what to do.
    `param` names the field at fault; `details` are further `{code, message}` objects of the envelope;
    `extra` rides in `error.additionalInfo` and never holds a secret.
    """

    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        details: Sequence[Mapping[str, Any]] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.details = tuple(details)
        self.extra = dict(extra or {})


class BadRequest(CupolaError):
    code = "bad_request"


class Unauthenticated(CupolaError):
    code = "unauthorized"


class Forbidden(CupolaError):
    code = "forbidden"


class NotFound(CupolaError):
    code = "not_found"


class Conflict(CupolaError):
    code = "conflict"


class PreconditionFailed(CupolaError):
    """`etag` is that of the object now, None where there is none."""

    code = "precondition_failed"

    def __init__(self, message: str, *, etag: str | None = None) -> None:
        super().__init__(message)
        self.etag = etag


class SessionNotReady(CupolaError):
    """`start` is how the sandbox was tried to bring up, if it came so far."""

    code = "session_not_ready"
    start: Start | None = None


class QuotaExceeded(CupolaError):
    code = "QuotaExceeded"


class PayloadTooLarge(CupolaError):
    code = "payload_too_large"


class RangeNotSatisfiable(CupolaError):
    """`size` is how many bytes the file has."""

    code = "range_not_satisfiable"

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class NotServed(CupolaError):
    code = "not_implemented"


class SandboxLost(CupolaError):
    code = "sandbox_lost"


class StartFailed(CupolaError):
    """A sandbox, or what it needs, could not be made.

    `phase` is one of validate, pull, build, create, start, probe. `exit_code` is the process's, if it ended.
    """

    code = "ProvisioningError"

    def __init__(
        self,
        message: str,
        *,
        phase: str,
        code: str | None = None,
        exit_code: int | None = None,
        details: Sequence[Mapping[str, Any]] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, code=code, details=details, extra=extra)
        self.phase = phase
        self.exit_code = exit_code


class DriverUnavailable(CupolaError):
    code = "driver_unavailable"


class IssuerUnavailable(CupolaError):
    code = "issuer_unavailable"


class SetupError(CupolaError):
    code = "setup_error"
