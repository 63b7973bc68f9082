"""Makes, reads, lists and deletes versions of an image that nobody can pull: no sandbox is needed for that."""

from __future__ import annotations

from typing import Any

from sdk import Sdk, call, collect, main, refusal  # type: ignore[import-not-found]  # lies beside the script

IMAGE = "registry.invalid/agent:1"


async def crud(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    (name,) = arguments
    made = [
        await call(
            sdk.agents.create_version(
                agent_name=name,
                definition=sdk.definition(IMAGE, environment_variables={"NUMBER": str(number)}),
                description=f"number {number}",
                metadata={"number": str(number)},
            )
        )
        for number in range(1, 6)
    ]
    agent = await call(sdk.agents.get(agent_name=name))
    second = await call(sdk.agents.get_version(agent_name=name, agent_version="2"))
    paged = await collect(sdk.agents.list_versions(agent_name=name, limit=2))
    ascending = await collect(sdk.agents.list_versions(agent_name=name, limit=2, order="asc"))
    agents = await collect(sdk.agents.list(limit=1))
    failed = await sdk.settled(made[-1])

    deleted_version = await call(sdk.agents.delete_version(agent_name=name, agent_version="1"))
    gone_version = await refusal(lambda: sdk.agents.get_version(agent_name=name, agent_version="1"))
    left = await collect(sdk.agents.list_versions(agent_name=name))
    deleted = await call(sdk.agents.delete(agent_name=name))
    gone = await refusal(lambda: sdk.agents.get(agent_name=name))
    return {
        "made": [version.as_dict() for version in made],
        "agent": agent.as_dict(),
        "second": second.as_dict(),
        "paged": [version.version for version in paged],
        "ascending": [version.version for version in ascending],
        "agents": [agent.name for agent in agents],
        "failed": failed.as_dict(),
        "deleted_version": deleted_version.as_dict(),
        "gone_version": gone_version,
        "left": [version.version for version in left],
        "deleted": deleted.as_dict(),
        "gone": gone,
    }


if __name__ == "__main__":
    main(crud)
