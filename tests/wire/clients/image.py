"""Deploys an image, twice, talks to it, and deletes it."""

from __future__ import annotations

from typing import Any

from sdk import Sdk, call, main  # type: ignore[import-not-found]  # lies beside the script


async def image(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    name, reference = arguments
    tools = {"tools": [{"type": "code_interpreter"}]} if sdk.b3 else {}

    def create() -> Any:
        variables = {"MODEL_NAME": "gpt-4o-mini"}
        definition = sdk.definition(reference, environment_variables=variables, **tools)
        return sdk.agents.create_version(agent_name=name, definition=definition)

    version = await sdk.settled(await call(create()))
    same = await call(create())
    client, agent = await sdk.openai(name)
    answer = await call(client.responses.create(input="hello", **agent))
    await call(sdk.agents.delete_version(agent_name=name, agent_version=version.version, **sdk.forced()))
    await call(sdk.agents.delete(agent_name=name, **sdk.forced()))
    return {"version": version.as_dict(), "same": same.version, "answer": answer.output_text}


if __name__ == "__main__":
    main(image)
