"""Items of conversations, as containers read and write them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import ECHO
from tests.support.platform import OPENAI, PROJECT, Caller, PlatformUnderTest, open_platform


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncGenerator[PlatformUnderTest]:
    """A platform whose only sandbox serves a session of the usual client."""
    async with open_platform(tmp_path, ECHO) as platform:
        await platform.create_version()
        await platform.hear()
        yield platform


def items_of(conversation: str, base: str = "openai") -> str:
    return f"{PROJECT}/{base}/conversations/{conversation}/items"


def texts(items: Any) -> list[str]:
    return ["".join(part["text"] for part in item["content"]) for item in items]


@pytest.mark.operation("talk.list", "talk.add", "talk.list.v1", "talk.add.v1")
@pytest.mark.parametrize("base", ["openai", "openai/v1"])
async def test_what_is_written_is_read_by_both_sides(platform: PlatformUnderTest, base: str) -> None:
    """The container appends, the client sees it; the newest comes first unless asked otherwise, page by page."""
    conversation = await platform.conversation()
    container = platform.sandbox_caller()
    said = [{"type": "message", "role": "user", "content": word} for word in ("one", "two", "three")]
    made = await container("POST", items_of(conversation, base) + "?api-version=2025-11-15-preview", {"items": said})
    assert made.status == 200, made.body
    assert all(item["id"].startswith("msg_") and item["status"] == "completed" for item in made.json()["data"])
    page = (await container("GET", items_of(conversation, base) + "?limit=2")).json()
    assert (texts(page["data"]), page["has_more"]) == (["three", "two"], True)
    rest = (await container("GET", items_of(conversation, base) + f"?limit=2&after={page['last_id']}")).json()
    assert (texts(rest["data"]), rest["has_more"]) == (["one"], False)
    shown = await platform.call("GET", f"{OPENAI}/conversations/{conversation}/items?order=asc")
    assert texts(shown.json()["data"]) == ["one", "two", "three"]


async def test_an_item_written_twice_stands_there_once(platform: PlatformUnderTest) -> None:
    """An item is known by its id."""
    conversation = await platform.conversation()
    container = platform.sandbox_caller()
    item = {"type": "message", "role": "user", "id": "msg_1", "content": "once"}
    for _ in range(2):
        assert (await container("POST", items_of(conversation), {"items": [item]})).status == 200
    assert texts((await container("GET", items_of(conversation))).json()["data"]) == ["once"]


async def test_another_users_conversation_does_not_exist(platform: PlatformUnderTest) -> None:
    """The sandbox serves one user's session, and sees that user's talk only."""
    other = platform.caller("other")
    conversation = str((await other("POST", f"{OPENAI}/conversations", {})).json()["id"])
    container = platform.sandbox_caller()
    item = {"type": "message", "role": "user", "content": "mine"}
    for answer in (
        await container("GET", items_of(conversation)),
        await container("POST", items_of(conversation), {"items": [item]}),
        await container("GET", items_of("conv_unknown")),
    ):
        assert (answer.status, answer.error["param"]) == (404, "conversation_id")


async def test_a_sandbox_without_a_session_sees_none(tmp_path: Path) -> None:
    """A warm sandbox serves nobody yet."""
    async with open_platform(tmp_path, ECHO) as platform:
        await platform.create_version()
        conversation = await platform.conversation()
        assert (await platform.sandbox_caller()("GET", items_of(conversation))).status == 404


@pytest.mark.parametrize("body", [{}, {"items": []}, {"items": "x"}, {"items": ["x"]}, {"items": [{}] * 21}])
async def test_odd_items_are_refused(platform: PlatformUnderTest, body: Any) -> None:
    """With the parameter named."""
    answer = await platform.sandbox_caller()("POST", items_of(await platform.conversation()), body)
    assert (answer.status, answer.error["param"]) == (400, "items")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "mcp_tools"),
        ("POST", "agents/a1/tools/resolve"),
        ("POST", "agents/a1/tools/invoke"),
        ("GET", "connections?connectionType=AppInsights"),
        ("PUT", "checkpoints/sessions/s"),
    ],
)
async def test_what_the_oldest_adapters_ask_besides(platform: PlatformUnderTest, method: str, path: str) -> None:
    """It is not served, and a sentence says so."""
    container: Caller = platform.sandbox_caller()
    answer = await container(method, f"{PROJECT}/{path}", {})
    assert answer.status == 501
    assert "does not serve" in answer.error["message"]
