"""All settings, read once, at the start, in one place.

Order: command-line argument, then `CUPOLA_*` environment variable, then `cupola.toml` in the state directory, then
the default. A bad value stops the start with a sentence. Every setting has a line in `docs/settings.md`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from cupola.agents import MAX_WARM_POOL
from cupola.errors import SetupError
from cupola.identity import Role
from cupola.issuers import read_issuer


class Settings(BaseSettings):
    """What an operator may choose."""

    model_config = SettingsConfigDict(
        env_prefix="CUPOLA_", env_ignore_empty=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    state_dir: Path = Field(default_factory=lambda: platformdirs.user_data_path("cupola"))
    """Directory of everything that lasts: database, keys, homes, code, output. One platform per directory."""

    cache_dir: Path = Field(default_factory=lambda: platformdirs.user_cache_path("cupola"))
    """Directory of what can be made again: installed requirements of code deployments. May be shared."""

    host: str = "127.0.0.1"
    """Address that clients connect to. Anything but loopback opens the platform to the network: see SECURITY.md."""

    port: int = Field(8443, ge=1, le=65535)
    """TCP port of the https listener for clients."""

    project: str = Field("demo", min_length=1, max_length=64)
    """Project that `cupola env` names in the endpoint."""

    driver: Literal["auto", "docker", "process"] = "auto"
    """Where images run: `docker` (also Podman) or nowhere (`process`); `auto` takes an engine that answers."""

    idle_timeout: float = Field(900, gt=0)
    """Seconds without activity after which a session's sandbox stops; a version's own `session_configuration` wins."""

    ready_timeout: float = Field(60, gt=0)
    """Seconds that a started sandbox has to answer /readiness with 200."""

    stop_grace: float = Field(65, ge=0)
    """Seconds between SIGTERM and SIGKILL; the adapters may need 30 + 25 + 10 (container-contract.md §1)."""

    max_sandboxes: int = Field(50, ge=1)
    """Sandboxes running at once; beyond it the least recently used idle one stops, or the request gets a 429."""

    max_sessions_per_project: int = Field(0, ge=0)
    """Sessions of one project that may run at once; 0 for no limit but `max_sandboxes`, which protects the machine."""

    max_sessions_per_agent: int = Field(0, ge=0)
    """Sessions of one agent that may run at once; 0 for no limit."""

    max_sessions_per_caller: int = Field(0, ge=0)
    """Sessions of one caller that may run at once in a project; 0 for no limit: most installations have one user."""

    session_max_seconds: float = Field(0, ge=0)
    """Seconds that a session may run in all; a version's metadata key of that name wins. 0 for no limit."""

    session_max_cpu_seconds: float = Field(0, ge=0)
    """Processor seconds that a session may use in all; a version's metadata key of that name wins. 0 for no limit."""
    warm_pool: int = Field(0, ge=0, le=MAX_WARM_POOL)
    """Sandboxes that wait for new sessions, for each version that gets traffic and does not say (`warm_pool` in its
    metadata). 0: none is started ahead, since each takes memory of agents that may not be asked; the one that was
    probed when a version was made waits until it is idle."""

    orphan_grace: float = Field(60, ge=0)
    """Seconds that a sandbox which no session owns may live before it is removed."""

    output_bytes: int = Field(10 * 1024 * 1024, ge=64 * 1024)
    """Bytes of output that are kept of one session, over all its sandboxes; beyond it the oldest eighth goes."""

    output_total_bytes: int = Field(2 * 1024 * 1024 * 1024, ge=64 * 1024)
    """Bytes of output that are kept in all; beyond it what ended first goes."""

    output_days: float = Field(14, gt=0)
    """Days that runs of sandboxes, and their output, are kept after their end; never longer than their session."""

    oidc_issuer: str | None = None
    """OpenID Connect issuer whose tokens are taken beside the installation's own; for Entra with the tenant's id."""

    oidc_audience: str = Field("https://ai.azure.com", min_length=1)
    """Audience (`aud`) that the issuer's tokens must have; the default is what the official clients ask for."""

    oidc_role_claim: str = Field("roles", min_length=1)
    """Claim that says what the bearer may do: a list or words; dots lead into objects (`realm_access.roles`)."""

    oidc_roles: dict[str, Role] = Field(default_factory=dict)
    """Role for each value of the claim; if empty, `Cupola.Reader|User|Operator` and the plain role names count."""

    oidc_default_role: Role | None = None
    """Role of those whom the issuer has given none; without it they get a 403."""

    local_tokens: bool = True
    """Whether tokens of `cupola tokens create` are taken; the owner's own sign-in on this machine always is."""

    azure_limits: bool = False
    """Refuse definitions that Azure is known to refuse, where Cupola would take more: cpu, memory, protocol `v1`."""

    stream_keep_alive: float = Field(15, ge=0)
    """Seconds of silence after which a stream gets a comment, so that nothing on the way cuts it; 0 for none."""

    stream_idle_cut: float = Field(0, ge=0)
    """Seconds after which a stream that the container leaves silent is cut, as Azure does after 270; 0 for never."""

    timings_days: float = Field(30, gt=0)
    """Days for which it is kept how long each request took (`cupola stats`)."""

    timings_rows: int = Field(100_000, ge=1)
    """Requests of each agent of which that is kept at most, the latest; 100,000 take about 40 MB."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that the platform logs."""

    log_format: Literal["auto", "console", "json"] = "auto"
    """`auto` is `console` on a terminal and `json` otherwise."""

    @field_validator("oidc_issuer")
    @classmethod
    def _is_an_issuer(cls, address: str | None) -> str | None:
        if address is not None:
            read_issuer(address)
        return address


def load(**arguments: Any) -> Settings:
    """Settings from arguments (None means: not given), environment, file and defaults. Raises SetupError."""
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        state_dir = Settings(**given).state_dir.expanduser().absolute()
        path = state_dir / "cupola.toml"
        from_file = _read_file(path)
        from_environment = Settings(**given).model_dump(exclude_unset=True)
        merged = {**from_file, **from_environment, "state_dir": state_dir}
        return Settings(**merged)
    except SettingsError as error:  # a variable that should hold JSON
        raise SetupError(
            f"A CUPOLA_ variable has a bad value: {error}. Settings of several values are JSON."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SetupError(
            f"Setting '{name}' has a bad value {first.get('input')!r}: {first['msg']}. "
            f"It comes from the command line, CUPOLA_{name.upper()} or cupola.toml in the state directory."
        ) from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} is not valid TOML: {error}. Mend or remove the file.") from error
