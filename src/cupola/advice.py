"""What is allowed but unwise about a definition: the `warnings` on a version.

Pure, and never a refusal: what a definition means is the caller's business. No sentence repeats a value that may be
a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from cupola.agents import GIB, Definition
from cupola.secrecy import looks_secret_as

_REFERENCE = re.compile(r"\$\{\{\s*connections\.[^}]*\}\}")
"""Resolved when a sandbox starts, and never shown resolved (control-plane.md §2.2.1)."""


def warnings_of(definition: Definition, *, host_memory: int) -> tuple[str, ...]:
    """What the deployer should know, in sentences. `host_memory` is this machine's, in bytes."""
    return (
        *_of_image(definition.image),
        *_of_environment(definition.environment),
        *_of_memory(definition.memory, host_memory),
        *_of_tools(definition),
        *_of_protocols(definition),
    )


def _of_image(image: str | None) -> Iterator[str]:
    if image is None or "@" in image:
        return
    if ":" not in image.rsplit("/", 1)[-1]:
        yield f"The image '{image}' has no tag and means ':latest'; a specific tag makes versions repeatable."
    elif image.endswith(":latest"):
        yield f"The image '{image}' is tagged latest; a specific tag makes versions repeatable."


def _of_environment(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if looks_secret_as(name, _REFERENCE.sub("", value)):
            yield (
                f"The environment variable '{name}' seems to hold a secret: everybody who may read this version can "
                "read it. A connection reference (${{connections.<name>.credentials.<field>}}) or a key vault keeps "
                "it out of the definition."
            )


def _of_memory(memory: int, host_memory: int) -> Iterator[str]:
    if memory > host_memory:
        yield (
            f"The definition asks for {memory / GIB:g}Gi of memory, and this machine has {host_memory / GIB:.1f} GiB: "
            "a sandbox that uses what it may will be killed, or slow everything down."
        )


def _of_tools(definition: Definition) -> Iterator[str]:
    if definition.tools:
        yield (
            "'tools' of a hosted definition reach the agent only through adapters of the first generation; "
            "others call tools themselves, or a toolbox."
        )


def _of_protocols(definition: Definition) -> Iterator[str]:
    old = [p.protocol for p in definition.protocols if p.version == "v1"]
    if old:
        yield (
            f"Version 'v1' of the protocol {', '.join(old)} is that of the initial preview, which Azure refuses by "
            "now; declare '2.0.0' for containers built with today's adapters."
        )
