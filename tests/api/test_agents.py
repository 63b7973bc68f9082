"""The control plane's agents."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import ECHO
from tests.support.multipart import as_azd, code_zip, encoded
from tests.support.platform import DEFINITION, OPENAI, PROJECT, Answer, PlatformUnderTest, open_platform

AGENTS = f"{PROJECT}/agents"


async def test_create_get_and_delete(platform: PlatformUnderTest) -> None:
    """`POST /agents` makes the agent with version 1; deleting it takes everything away."""
    body = {"name": "a1", "definition": DEFINITION, "description": "d", "metadata": {"k": "v"}}
    made = await platform.call("POST", AGENTS, body)
    assert made.status == 200
    assert (made.json()["id"], made.json()["name"], made.json()["state"]) == ("a1", "a1", "enabled")
    latest = made.json()["versions"]["latest"]
    assert (latest["version"], latest["description"], latest["metadata"]) == ("1", "d", {"k": "v"})
    await platform.settled("a1", "1")
    got = (await platform.call("GET", f"{AGENTS}/a1")).json()
    assert got["versions"]["latest"]["status"] == "active"
    assert got["instance_identity"]["principal_id"] == made.json()["instance_identity"]["principal_id"]
    gone = await platform.call("DELETE", f"{AGENTS}/a1")
    assert (gone.status, gone.json()) == (200, {"object": "agent.deleted", "name": "a1", "deleted": True})
    assert (await platform.call("GET", f"{AGENTS}/a1")).status == 404
    assert platform.running() == []
    assert platform.place.homes == {} or not any(platform.place.homes.values())


async def test_creating_it_twice_is_a_conflict(platform: PlatformUnderTest) -> None:
    """409, and the client is told not to try again."""
    body = {"name": "a1", "definition": DEFINITION}
    await platform.call("POST", AGENTS, body)
    again = await platform.call("POST", AGENTS, body)
    assert again.status == 409
    assert again.error["code"] == "conflict"
    assert "already exists" in again.error["message"]
    assert again.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("body", [{"definition": DEFINITION}, {"name": 5, "definition": DEFINITION}])
async def test_a_create_needs_a_name(platform: PlatformUnderTest, body: object) -> None:
    """It is named as missing."""
    answer = await platform.call("POST", AGENTS, body)
    assert (answer.status, answer.error["param"]) == (400, "name")


async def test_the_name_of_a_code_deployment_may_ride_in_a_header(platform: PlatformUnderTest) -> None:
    """As azd sends it."""
    upload = encoded(as_azd(code_zip()))
    upload["headers"]["x-ms-agent-name"] = "coded"
    made = await platform.call("POST", AGENTS, **upload)
    assert made.status == 200, made.body
    assert made.json()["name"] == "coded"


async def test_update_makes_a_version_and_shows_the_agent(platform: PlatformUnderTest) -> None:
    """`POST /agents/{name}`; nothing changed, nothing made."""
    await platform.create_version()
    changed = {"definition": {**DEFINITION, "cpu": "2"}}
    updated = await platform.call("POST", f"{AGENTS}/a1", changed)
    assert updated.json()["object"] == "agent"
    assert updated.json()["versions"]["latest"]["version"] == "2"
    same = await platform.call("POST", f"{AGENTS}/a1", changed)
    assert same.json()["versions"]["latest"]["version"] == "2"
    assert (await platform.call("POST", f"{AGENTS}/other", changed)).status == 404


async def test_an_update_may_bring_the_endpoint_along(platform: PlatformUnderTest) -> None:
    """As a create may: the version that it makes can be named at once; what is refused makes none."""

    def selecting(version: str) -> dict[str, Any]:
        rule = {"type": "FixedRatio", "agent_version": version, "traffic_percentage": 100}
        return {"version_selector": {"version_selection_rules": [rule]}}

    def chosen(answer: Answer) -> list[str]:
        selector = answer.json()["agent_endpoint"]["version_selector"]
        return [rule["agent_version"] for rule in selector["version_selection_rules"]]

    card = {"version": "1", "skills": []}
    body = {"name": "a1", "definition": DEFINITION, "agent_endpoint": selecting("1"), "agent_card": card}
    made = await platform.call("POST", AGENTS, body)
    assert (made.status, chosen(made), made.json()["agent_card"]) == (200, ["1"], card)
    changed = {"definition": {**DEFINITION, "cpu": "2"}, "agent_endpoint": selecting("2")}
    updated = await platform.call("POST", f"{AGENTS}/a1", changed)
    assert (updated.status, chosen(updated)) == (200, ["2"])
    refused = await platform.call(
        "POST", f"{AGENTS}/a1", {"definition": {**DEFINITION, "cpu": "3"}, "agent_endpoint": selecting("9")}
    )
    assert refused.status == 400
    agent = (await platform.call("GET", f"{AGENTS}/a1")).json()
    assert agent["versions"]["latest"]["version"] == "2"
    assert agent["agent_card"] == card
    for version in ("1", "2"):
        await platform.settled("a1", version)


async def test_one_name_is_created_once(platform: PlatformUnderTest) -> None:
    """Of many who create it at once, one does; the others get a 409."""
    bodies = [{"name": "a1", "definition": {**DEFINITION, "cpu": cpu}} for cpu in ("1", "2", "3", "4")]
    made = await asyncio.gather(*(platform.call("POST", AGENTS, body) for body in bodies))
    assert sorted(answer.status for answer in made) == [200, 409, 409, 409]
    assert len((await platform.call("GET", f"{AGENTS}/a1/versions")).json()["data"]) == 1
    await platform.settled("a1", "1")


async def test_what_is_made_while_an_agent_goes_goes_too(platform: PlatformUnderTest) -> None:
    """Or the agent is made anew: either way no sandbox runs for a version that does not exist."""
    await platform.create_version()
    changed = {"definition": {**DEFINITION, "cpu": "2"}}
    gone, made = await asyncio.gather(
        platform.call("DELETE", f"{AGENTS}/a1?force=true"), platform.call("POST", f"{AGENTS}/a1/versions", changed)
    )
    assert (gone.status, made.status) == (200, 200)
    if (await platform.call("GET", f"{AGENTS}/a1")).status == 404:
        assert platform.running() == []
    else:
        await platform.settled("a1", made.json()["version"])
        assert len(platform.running()) == 1


async def test_kinds(platform: PlatformUnderTest) -> None:
    """Every kind that a client of any generation may ask for."""
    await platform.create_version()
    for kind in ("hosted", ""):
        assert len((await platform.call("GET", f"{AGENTS}?kind={kind}")).json()["data"]) == 1
    for kind in ("prompt", "workflow", "external", "voice", "container_app"):
        assert (await platform.call("GET", f"{AGENTS}?kind={kind}")).json()["data"] == []


async def test_what_was_shown_may_be_sent_back(platform: PlatformUnderTest) -> None:
    """Read-only fields and defaults in a PATCH change nothing."""
    await platform.create_version()
    shown = (await platform.call("GET", f"{AGENTS}/a1")).json()
    again = await platform.call("PATCH", f"{AGENTS}/a1", {**shown, "id": "other", "state": "disabled", "card": None})
    assert (again.status, again.json()) == (200, shown)


async def test_lists_end_for_clients_that_ignore_has_more(platform: PlatformUnderTest) -> None:
    """Walking by `last_id` until it is null sees every agent once, newest first."""
    for number in range(5):
        await platform.create_version(f"a{number}")
    seen, after = [], ""
    while True:
        page = (await platform.call("GET", f"{AGENTS}?limit=2{after}")).json()
        assert page["object"] == "list"
        assert page["first_id"] == page["data"][0]["id"]
        seen += [agent["name"] for agent in page["data"]]
        if page["last_id"] is None:
            break
        assert page["last_id"] == page["data"][-1]["id"]
        after = f"&after={page['last_id']}"
    assert seen == ["a4", "a3", "a2", "a1", "a0"]
    assert page["has_more"] is False
    assert page["data"][0]["versions"]["latest"]["version"] == "1"


async def test_an_after_at_the_end_is_empty(platform: PlatformUnderTest) -> None:
    """The SDK asks once more with the last id: no data, `last_id` null."""
    await platform.create_version()
    page = (await platform.call("GET", f"{AGENTS}?after=a1")).json()
    assert (page["data"], page["last_id"], page["has_more"]) == ([], None, False)


async def test_order_and_kind(platform: PlatformUnderTest) -> None:
    """Oldest first on request; there are no agents of other kinds."""
    for name in ("x", "y"):
        await platform.create_version(name)
    ascending = (await platform.call("GET", f"{AGENTS}?order=asc&kind=hosted")).json()
    assert [agent["name"] for agent in ascending["data"]] == ["x", "y"]
    others = (await platform.call("GET", f"{AGENTS}?kind=prompt&limit=1")).json()
    assert (others["data"], others["last_id"], others["has_more"]) == ([], None, False)
    assert (await platform.call("GET", f"{AGENTS}?limit=0")).error["param"] == "limit"


async def test_projects_are_apart(platform: PlatformUnderTest) -> None:
    """An agent of one project is none of another."""
    await platform.create_version()
    assert (await platform.call("GET", "/api/projects/other/agents/a1")).status == 404
    assert (await platform.call("GET", "/api/projects/other/agents")).json()["data"] == []


async def test_a_patch_merges(platform: PlatformUnderTest) -> None:
    """What is omitted stays, null removes; either content type."""
    await platform.create_version()
    first: dict[str, Any] = {
        "agent_endpoint": {"protocol_configuration": {"responses": {}, "a2a": {}}, "authorization_schemes": []},
        "agent_card": {"version": "1", "description": "d", "skills": []},
    }
    merge = {"content-type": "application/merge-patch+json"}
    assert (await platform.call("PATCH", f"{AGENTS}/a1", first, headers=merge)).status == 200
    second: dict[str, Any] = {
        "agent_endpoint": {"protocol_configuration": {"a2a": None}},
        "agent_card": {"description": None},
    }
    patched = (await platform.call("PATCH", f"{AGENTS}/a1", second)).json()
    assert patched["agent_endpoint"]["protocol_configuration"] == {"responses": {}, "invocations": {}}
    assert patched["agent_endpoint"]["authorization_schemes"] == []
    assert patched["agent_card"] == {"version": "1", "skills": []}
    cleared = (await platform.call("PATCH", f"{AGENTS}/a1", {"agent_card": None, "agent_endpoint": None})).json()
    assert cleared["agent_card"] is None
    assert cleared["agent_endpoint"]["authorization_schemes"] == [{"type": "Entra"}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"agent_endpoint": "x"}, "agent_endpoint"),
        ({"agent_endpoint": ["x"]}, "agent_endpoint"),
        ({"agent_card": "x"}, "agent_card"),
        ({"agent_endpoint": {"version_selector": "x"}}, "agent_endpoint.version_selector"),
        (
            {"agent_endpoint": {"version_selector": {"version_selection_rules": "x"}}},
            "agent_endpoint.version_selector.version_selection_rules",
        ),
        (
            {
                "agent_endpoint": {
                    "version_selector": {
                        "version_selection_rules": [
                            {"type": "FixedRatio", "agent_version": "9", "traffic_percentage": 100}
                        ]
                    }
                }
            },
            "agent_endpoint.version_selector.version_selection_rules.0.agent_version",
        ),
    ],
)
async def test_a_patch_is_checked(platform: PlatformUnderTest, body: object, param: str) -> None:
    """What cannot be configured is a 400 naming it, and changes nothing."""
    await platform.create_version()
    before = (await platform.call("GET", f"{AGENTS}/a1")).json()
    answer = await platform.call("PATCH", f"{AGENTS}/a1", body)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert (await platform.call("GET", f"{AGENTS}/a1")).json() == before


async def test_a_create_with_an_impossible_endpoint_makes_nothing(platform: PlatformUnderTest) -> None:
    """Checked before the version is made."""
    answer = await platform.call("POST", AGENTS, {"name": "a1", "definition": DEFINITION, "agent_endpoint": "x"})
    assert answer.status == 400
    assert (await platform.call("GET", f"{AGENTS}/a1")).status == 404


async def test_a_disabled_agents_endpoint_rejects_requests(platform: PlatformUnderTest) -> None:
    """Until it is enabled again; the control plane goes on, and a restart changes nothing."""
    await platform.create_version()
    assert (await platform.call("POST", f"{AGENTS}/a1:disable")).status == 204
    assert (await platform.call("POST", f"{AGENTS}/a1:disable")).status == 204
    assert (await platform.call("GET", f"{AGENTS}/a1")).json()["state"] == "disabled"
    refused = await platform.ask()
    assert (refused.status, refused.error["code"]) == (403, "agent_disabled")
    await platform.restart()
    assert (await platform.ask()).status == 403
    enabled = await platform.call("POST", f"{AGENTS}/a1:enable")
    assert (enabled.status, enabled.body) == (204, b"")
    assert (await platform.ask()).status == 200
    assert (await platform.call("POST", f"{AGENTS}/other:enable")).status == 404


async def test_a_new_agent_does_not_inherit_being_disabled(platform: PlatformUnderTest) -> None:
    """Deleting a disabled agent ends that, too."""
    await platform.create_version()
    await platform.call("POST", f"{AGENTS}/a1:disable")
    await platform.call("DELETE", f"{AGENTS}/a1")
    await platform.create_version()
    assert (await platform.ask()).status == 200


async def test_deleting_an_agent_in_use_needs_force(platform: PlatformUnderTest) -> None:
    """409 while a session is active; with force the sessions go, too."""
    await platform.create_version()
    await platform.hear()
    refused = await platform.call("DELETE", f"{AGENTS}/a1?force=false")
    assert (refused.status, refused.error["code"]) == (409, "conflict")
    assert "force=true" in refused.error["message"]
    assert (await platform.call("DELETE", f"{AGENTS}/a1?force=true")).status == 200
    assert platform.running() == []
    assert (await platform.ask()).status == 404


async def test_names_are_checked(tmp_path: Path) -> None:
    """On both ways to create."""
    async with open_platform(tmp_path, ECHO) as platform:
        made = await platform.call("POST", AGENTS, {"name": "not_allowed", "definition": DEFINITION})
        assert (made.status, made.error["param"]) == (400, "agent_name")
        made = await platform.call("POST", f"{AGENTS}/not_allowed/versions", {"definition": DEFINITION})
        assert (made.status, made.error["param"]) == (400, "agent_name")


@pytest.mark.operation("cupola.status")
async def test_status_counts(platform: PlatformUnderTest) -> None:
    """`/cupola/status` says what there is and what runs."""
    await platform.create_version()
    await platform.call("GET", f"{OPENAI}/responses/none")
    shown = (await platform.call("GET", "/cupola/status")).json()
    assert shown["sandboxes"] == 1
    assert shown["running"][0]["agent"] == "a1"
    assert shown["running"][0]["warm"] is True
