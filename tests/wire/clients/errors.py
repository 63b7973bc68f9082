"""Asks for what cannot be, and says what each call was refused with."""

from __future__ import annotations

from typing import Any

from sdk import Sdk, main, refusal  # type: ignore[import-not-found]  # lies beside the script

IMAGE = "registry.invalid/agent:1"


async def errors(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    (name,) = arguments

    def create(agent_name: str = name, image: str = IMAGE, **changes: Any) -> Any:
        return sdk.agents.create_version(agent_name=agent_name, definition=sdk.definition(image, **changes))

    client, reference = await sdk.openai(name)
    attempts = {
        "missing agent": lambda: sdk.agents.get(agent_name=name),
        "missing version": lambda: sdk.agents.get_version(agent_name=name, agent_version="7"),
        "list versions of missing agent": lambda: sdk.agents.list_versions(agent_name=name),
        "delete missing agent": lambda: sdk.agents.delete(agent_name=name),
        "delete missing version": lambda: sdk.agents.delete_version(agent_name=name, agent_version="7"),
        "cpu too large": lambda: create(cpu="99"),
        "cpu no number": lambda: create(cpu="many"),
        "memory too small": lambda: create(memory="1Mi"),
        "empty image": lambda: create(image=""),
        "bad name": lambda: create(agent_name="-bad-"),
        "reserved variable": lambda: create(environment_variables={"FOUNDRY_X": "1"}),
        "bad variable": lambda: create(environment_variables={"1X": "1"}),
        "limit out of range": lambda: sdk.agents.list(limit=1000),
        "invoke missing agent": lambda: client.responses.create(input="hi", **reference),
        "missing response": lambda: client.responses.retrieve("caresp_" + "0" * 50),
        "missing conversation": lambda: client.conversations.retrieve("conv_" + "0" * 50),
    }
    return {title: await refusal(attempt) for title, attempt in attempts.items()}


if __name__ == "__main__":
    main(errors)
