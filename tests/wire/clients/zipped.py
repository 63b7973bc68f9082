"""Deploys a folder as code, twice, then a changed one; shows what force is for; the newest SDK only."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

from azure.ai.projects import models
from sdk import Sdk, call, collect, main, refusal  # type: ignore[import-not-found]  # lies beside the script


async def zipped(sdk: Sdk, arguments: list[str]) -> dict[str, Any]:
    name, folder = arguments
    first = await sdk.settled(await create(sdk, name, folder))
    same = await create(sdk, name, folder)
    changed = await sdk.settled(await create(sdk, name, folder, {"WORD_DELAY": "0.01"}))
    listed = await collect(sdk.agents.list_versions(agent_name=name))

    client, _ = await sdk.openai(name)
    answer = await call(client.responses.create(input="hello"))

    active_sessions = await refusal(lambda: sdk.agents.delete(agent_name=name))
    deleted = await call(sdk.agents.delete(agent_name=name, force=True))
    return {
        "first": first.as_dict(),
        "same": same.version,
        "changed": changed.as_dict(),
        "listed": [version.version for version in listed],
        "answer": answer.output_text,
        "active_sessions": active_sessions,
        "deleted": deleted.as_dict(),
    }


async def create(sdk: Sdk, name: str, folder: str, variables: dict[str, str] | None = None) -> Any:
    definition = models.HostedAgentDefinition(
        cpu="1",
        memory="2Gi",
        code_configuration=models.CodeConfiguration(
            runtime=f"python_{sys.version_info.major}_{sys.version_info.minor}",
            entry_point=["python", "main.py"],
            dependency_resolution="remote_build",
        ),
        protocol_versions=[models.ProtocolVersionRecord(protocol="responses", version="2.0.0")],
        environment_variables=variables,
    )
    return await call(
        sdk.agents.create_version_from_code(agent_name=name, definition=definition, code=packed(Path(folder)))
    )


def packed(folder: Path) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in [*sorted(folder.glob("*.py")), folder / "requirements.txt"]:
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    buffer.name = "agent.zip"
    return buffer


if __name__ == "__main__":
    main(zipped)
