"""The control plane's versions: made, listed, failed with evidence, deleted, downloaded."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cupola.drivers.base import ImageSource, Source
from cupola.drivers.fake import Behaviour, Moment
from cupola.errors import StartFailed
from cupola.store import agents as rows
from tests.support.agents import ECHO, echo
from tests.support.multipart import Part, as_async_sdk, as_azd, as_sync_sdk, code_zip, encoded, metadata
from tests.support.platform import DEFINITION, PROJECT, PlatformUnderTest, open_platform
from tests.support.waiting import wait_until

VERSIONS = f"{PROJECT}/agents/a1/versions"


async def test_a_version_becomes_active_after_it_answered(platform: PlatformUnderTest) -> None:
    """Creating, with its steps; then active, and its sandbox is kept for the first session."""
    made = await platform.call("POST", VERSIONS, {"definition": DEFINITION, "description": "d"})
    assert made.status == 200
    assert (made.json()["id"], made.json()["status"], made.json()["state"]) == ("a1:1", "creating", "creating")
    assert made.json()["provisioning"]["phase"] == "validate"
    active = await platform.settled("a1", "1")
    assert (active["status"], active["error"], active["description"]) == ("active", None, "d")
    assert "provisioning" not in active
    assert len(platform.running()) == 1
    assert platform.sandbox.requests[0].path == "/readiness"


async def test_an_unchanged_create_makes_no_version(platform: PlatformUnderTest) -> None:
    """The latest is returned; any change of content, description or metadata makes the next."""
    await platform.create_version()
    again = (await platform.call("POST", VERSIONS, {"definition": DEFINITION})).json()
    assert (again["version"], again["status"]) == ("1", "active")
    older = {
        "kind": "hosted",
        "image": "agent:1",
        "container_protocol_versions": DEFINITION["protocol_versions"],
        "cpu": "1.0",
        "memory": "2048Mi",
    }
    assert (await platform.call("POST", VERSIONS, {"definition": older})).json()["version"] == "1"
    described = {"definition": DEFINITION, "description": "new"}
    assert (await platform.call("POST", VERSIONS, described)).json()["version"] == "2"
    bigger = {"definition": {**DEFINITION, "memory": "4Gi"}, "description": "new"}
    assert (await platform.call("POST", VERSIONS, bigger)).json()["version"] == "3"


async def test_a_failed_version_may_be_tried_again(tmp_path: Path) -> None:
    """The same definition makes a new version then: the image may be there by now."""
    failing = Behaviour(fails=StartFailed("The image is not there.", phase="pull", code="ImageError"))
    async with open_platform(tmp_path, failing) as platform:
        assert (await platform.create_version())["status"] == "failed"
        platform.place.behaviour = ECHO
        again = await platform.create_version()
        assert (again["version"], again["status"]) == ("2", "active")


async def test_numbers_are_never_given_twice(platform: PlatformUnderTest) -> None:
    """Also when the newest version was deleted."""
    await platform.create_version()
    assert (await platform.call("DELETE", f"{VERSIONS}/1")).status == 200
    assert (await platform.create_version())["version"] == "2"


async def test_lists_page_by_id(platform: PlatformUnderTest) -> None:
    """Cursors are ids like `a1:2`, in either encoding; the walk ends with `last_id: null`."""
    for memory in ("1Gi", "2Gi", "3Gi"):
        await platform.create_version("a1", {**DEFINITION, "memory": memory})
    first = (await platform.call("GET", f"{VERSIONS}?limit=2")).json()
    assert [version["version"] for version in first["data"]] == ["3", "2"]
    assert (first["first_id"], first["last_id"], first["has_more"]) == ("a1:3", "a1:2", True)
    for after in ("a1:2", "a1%3A2"):
        second = (await platform.call("GET", f"{VERSIONS}?limit=2&after={after}")).json()
        assert [version["version"] for version in second["data"]] == ["1"]
        assert (second["last_id"], second["has_more"]) == (None, False)
    end = (await platform.call("GET", f"{VERSIONS}?after=a1:1")).json()
    assert (end["data"], end["last_id"]) == ([], None)
    ascending = (await platform.call("GET", f"{VERSIONS}?order=asc&before=a1:3")).json()
    assert [version["version"] for version in ascending["data"]] == ["1", "2"]
    assert (await platform.call("GET", f"{PROJECT}/agents/none/versions")).status == 404


async def test_unknown_versions(platform: PlatformUnderTest) -> None:
    """404 naming agent and version."""
    await platform.create_version()
    for method in ("GET", "DELETE"):
        answer = await platform.call(method, f"{VERSIONS}/7")
        assert answer.status == 404
        assert "'a1' has no version '7'" in answer.error["message"]
        assert (await platform.call(method, f"{PROJECT}/agents/none/versions/1")).status == 404


async def test_drafts_stay_out_of_the_way(platform: PlatformUnderTest) -> None:
    """Not listed unless asked for, never latest, no traffic of their own accord."""
    await platform.create_version()
    body = {"definition": {**DEFINITION, "cpu": "2"}, "draft": True}
    draft = (await platform.call("POST", VERSIONS, body)).json()
    assert draft["draft"] is True
    assert draft["version"].startswith("draft-")
    await platform.settled("a1", draft["version"])
    listed = (await platform.call("GET", VERSIONS)).json()["data"]
    assert [version["version"] for version in listed] == ["1"]
    everything = (await platform.call("GET", f"{VERSIONS}?include_drafts=true")).json()["data"]
    assert [version["version"] for version in everything] == [draft["version"], "1"]
    agent = (await platform.call("GET", f"{PROJECT}/agents/a1")).json()
    assert agent["versions"]["latest"]["version"] == "1"
    rule = {"type": "FixedRatio", "agent_version": draft["version"], "traffic_percentage": 100}
    patch = {"agent_endpoint": {"version_selector": {"version_selection_rules": [rule]}}}
    assert (await platform.call("PATCH", f"{PROJECT}/agents/a1", patch)).status == 400
    assert (await platform.create_version("a1", {**DEFINITION, "cpu": "3"}))["version"] == "2"


async def test_delete(platform: PlatformUnderTest) -> None:
    """Its warm sandbox stops, and nothing is left of it."""
    await platform.create_version()
    gone = await platform.call("DELETE", f"{VERSIONS}/1")
    assert gone.status == 200
    assert gone.json() == {"object": "agent.version.deleted", "name": "a1", "version": "1", "deleted": True}
    assert platform.running() == []
    assert (await platform.call("GET", f"{VERSIONS}/1")).status == 404
    assert (await platform.call("GET", VERSIONS)).json()["data"] == []


async def test_deleting_a_version_in_use_needs_force(platform: PlatformUnderTest) -> None:
    """409 while a session is active; force ends the session with its files."""
    await platform.create_version()
    session = (await platform.hear())["agent_session_id"]
    refused = await platform.call("DELETE", f"{VERSIONS}/1")
    assert (refused.status, refused.error["code"]) == (409, "conflict")
    assert session in refused.error["message"]
    assert (await platform.call("DELETE", f"{VERSIONS}/1?force=true")).status == 200
    assert platform.running() == []
    assert platform.place.homes == {}


async def test_deleting_a_version_whose_sessions_sleep_needs_no_force(platform: PlatformUnderTest) -> None:
    """Only what is active is in the way."""
    await platform.create_version()
    await platform.hear()
    platform.clock.now += 901
    await platform.platform.reaper.once()
    assert (await platform.call("DELETE", f"{VERSIONS}/1")).status == 200


async def test_deleting_what_is_being_made(tmp_path: Path) -> None:
    """Breaks the provisioning off and leaves nothing."""
    async with open_platform(tmp_path, Behaviour(hangs=Moment.START)) as platform:
        await platform.call("POST", VERSIONS, {"definition": DEFINITION})
        await wait_until(lambda: len(platform.running()) == 1)
        assert (await platform.call("DELETE", f"{VERSIONS}/1")).status == 200
        assert platform.running() == []
        assert (await platform.call("GET", f"{VERSIONS}/1")).status == 404


async def test_warnings_stand_on_the_version(platform: PlatformUnderTest) -> None:
    """They refuse nothing, are there when it is read again, and hold no secret."""
    token = "ghp_" + "a1B2" * 9
    definition = {**DEFINITION, "container_configuration": {"image": "agent"}, "environment_variables": {"T": token}}
    version = await platform.create_version("a1", definition)
    assert version["status"] == "active"
    of_tag, of_secret = version["warnings"]
    assert "has no tag" in of_tag
    assert "'T'" in of_secret
    assert token not in of_secret
    assert (await platform.create_version())["warnings"] == []


async def test_drafts_of_one_instant(platform: PlatformUnderTest) -> None:
    """The platform's clock stands still here: each draft gets a name of its own all the same."""
    await platform.create_version()
    body = {"definition": DEFINITION, "draft": True}
    made = await asyncio.gather(*(platform.call("POST", VERSIONS, body) for _ in range(5)))
    names = {answer.json()["version"] for answer in made}
    assert len(names) == 5
    listed = (await platform.call("GET", f"{VERSIONS}?include_drafts=true")).json()["data"]
    assert names <= {version["version"] for version in listed}
    for name in names:
        assert (await platform.settled("a1", name))["status"] == "active"
    assert (await platform.call("GET", f"{PROJECT}/agents/a1")).json()["versions"]["latest"]["version"] == "1"


async def test_versions_made_at_once_get_numbers_of_their_own(platform: PlatformUnderTest) -> None:
    """And the same definition at once is one version."""
    bodies = [{"definition": {**DEFINITION, "environment_variables": {"N": str(n % 4)}}} for n in range(8)]
    made = await asyncio.gather(*(platform.call("POST", VERSIONS, body) for body in bodies))
    numbers = [answer.json()["version"] for answer in made]
    listed = (await platform.call("GET", VERSIONS)).json()["data"]
    assert sorted(version["version"] for version in listed) == [str(n + 1) for n in range(len(listed))]
    assert set(numbers) == {version["version"] for version in listed}
    for number in sorted(set(numbers)):
        await platform.settled("a1", number)


async def test_the_most_versions(platform: PlatformUnderTest) -> None:
    """1000 exist at once; the next is a 400 `UserError`, an unchanged one and one after a delete are not."""
    await platform.create_version()
    first = await platform.version_row("a1", "1")

    def fill(conn: Any) -> None:
        agent = rows.get_agent(conn, "demo", "a1")
        assert agent is not None
        rows.put_agent(conn, replace(agent, last_number=1000))
        for number in range(2, 1001):
            rows.put_version(conn, replace(first, version=str(number)))

    await platform.store.write(fill)
    changed = {"definition": {**DEFINITION, "cpu": "2"}}
    refused = await platform.call("POST", VERSIONS, changed)
    assert (refused.status, refused.error["code"]) == (400, "UserError")
    assert "1000 are the most" in refused.error["message"]
    assert (await platform.call("POST", VERSIONS, {"definition": DEFINITION})).json()["version"] == "1000"
    upload = encoded(as_azd(code_zip()))
    assert (await platform.call("POST", VERSIONS, **upload)).error["code"] == "UserError"
    assert list(platform.installation.layout.code.iterdir()) == []
    await platform.call("DELETE", f"{VERSIONS}/500")
    assert (await platform.create_version("a1", changed["definition"]))["version"] == "1001"


async def test_a_deleted_version_gets_no_traffic(platform: PlatformUnderTest) -> None:
    """Its share goes to the others, and to the latest when there is none: the endpoint goes on."""
    for cpu in ("1", "2", "3"):
        await platform.create_version("a1", {**DEFINITION, "cpu": cpu})
    rules = [
        {"type": "FixedRatio", "agent_version": version, "traffic_percentage": share}
        for version, share in (("1", 50), ("2", 50))
    ]
    patch = {"agent_endpoint": {"version_selector": {"version_selection_rules": rules}}}
    assert (await platform.call("PATCH", f"{PROJECT}/agents/a1", patch)).status == 200

    async def shares() -> dict[str, int]:
        agent = (await platform.call("GET", f"{PROJECT}/agents/a1")).json()
        shown = agent["agent_endpoint"]["version_selector"]["version_selection_rules"]
        return {rule["agent_version"]: rule["traffic_percentage"] for rule in shown}

    assert (await platform.call("DELETE", f"{VERSIONS}/1")).status == 200
    assert await shares() == {"2": 100}
    assert (await platform.call("DELETE", f"{VERSIONS}/2")).status == 200
    assert await shares() == {"@latest": 100}
    assert (await platform.ask()).status == 200


async def test_azures_limits_are_a_setting(tmp_path: Path) -> None:
    """With it, a pair that Azure does not have is a 400 here, too."""
    async with open_platform(tmp_path, ECHO, azure_limits=True) as platform:
        refused = await platform.call("POST", VERSIONS, {"definition": {**DEFINITION, "memory": "4Gi"}})
        assert (refused.status, refused.error["code"]) == (400, "bad_request")
        assert refused.error["message"].startswith("CPU and Memory must be specified as a valid resource tier")
        smallest = {**DEFINITION, "cpu": "0.25", "memory": "0.5Gi"}
        assert (await platform.create_version("a1", smallest))["status"] == "active"


async def test_fields_of_digital_workers_are_taken(platform: PlatformUnderTest) -> None:
    """The newest SDK may send them; nothing here acts on them."""
    body = {
        "definition": DEFINITION,
        "draft": False,
        "blueprint_reference": {"type": "ManagedAgentIdentityBlueprint", "blueprint_id": "mine"},
        "digital_worker_type": "m365",
        "status": "failed",
        "version": "77",
        "created_at": 0,
    }
    made = (await platform.call("POST", VERSIONS, body)).json()
    assert (made["version"], made["status"]) == ("1", "creating")
    assert made["blueprint_reference"]["blueprint_id"] != "mine"
    await platform.settled("a1", "1")


# Failures


CRASH = ("Traceback (most recent call last):", "ModuleNotFoundError: No module named 'flask'")


@pytest.mark.parametrize(
    ("behaviour", "phase", "code", "exit_code", "said"),
    [
        (Behaviour(exit_code=1, output=CRASH), "start", "UserError", 1, "No module named 'flask'"),
        (Behaviour(exit_code=0), "start", "UserError", 0, "must keep serving"),
        (Behaviour(out_of_memory=True), "start", "UserError", 137, "limit of 2Gi"),
        (Behaviour(wrong_port=True), "probe", "ContainerProbesFailed", None, "not on 8088"),
        (Behaviour(local_only=True), "probe", "ContainerProbesFailed", None, "0.0.0.0"),
        (Behaviour(readiness=503), "probe", "ContainerProbesFailed", None, "answered 503"),
        (Behaviour(readiness=404), "probe", "ContainerProbesFailed", None, "GET /readiness is 404"),
        (Behaviour(readiness=None), "probe", "ContainerProbesFailed", None, "The agent"),
        (
            Behaviour(fails=StartFailed("No such image.", phase="pull", code="ImageError")),
            "pull",
            "ImageError",
            None,
            "No such image.",
        ),
        (
            Behaviour(fails=StartFailed("Another architecture.", phase="validate", code="ImageError")),
            "validate",
            "ImageError",
            None,
            "Another architecture.",
        ),
        (
            Behaviour(fails=StartFailed("The engine refused.", phase="create")),
            "create",
            "ProvisioningError",
            None,
            "The engine refused.",
        ),
        (
            Behaviour(fails=StartFailed("No such command.", phase="start", exit_code=127)),
            "start",
            "ProvisioningError",
            127,
            "No such command.",
        ),
    ],
)
async def test_a_failed_version_carries_the_evidence(
    tmp_path: Path, behaviour: Behaviour, phase: str, code: str, exit_code: int | None, said: str
) -> None:
    """Phase, code, sentence and exit code; and nothing of the sandbox is left."""
    async with open_platform(tmp_path, behaviour, ready_timeout=0.3) as platform:
        failed = await platform.create_version()
        assert failed["status"] == failed["state"] == "failed"
        error = failed["error"]
        assert (error["phase"], error["code"], error["exit_code"]) == (phase, code, exit_code)
        assert said in error["message"]
        if phase == "probe":
            assert error["probes"]
        if phase in ("start", "probe") and behaviour.fails is None:
            assert error["log"] == list(behaviour.output)
        assert platform.running() == []
        assert platform.place.homes == {}


async def test_names_that_users_know_ride_in_the_details(tmp_path: Path) -> None:
    """A denied pull is `ImagePullBackOff` in `error.details`."""
    denied = StartFailed(
        "The registry denied the pull.",
        phase="pull",
        code="ImageError",
        details=[{"code": "ImagePullBackOff", "message": "The registry denied the pull."}],
    )
    async with open_platform(tmp_path, Behaviour(fails=denied)) as platform:
        error = (await platform.create_version())["error"]
        assert [detail["code"] for detail in error["details"]] == ["ImagePullBackOff"]


async def test_a_defect_of_ours_fails_the_version_only(tmp_path: Path) -> None:
    """What nobody foresaw ends in a failed version, its traceback in the log and not on the wire."""

    def broken(source: Source) -> Behaviour:
        raise RuntimeError("hunter2")

    async with open_platform(tmp_path, broken) as platform:
        failed = await platform.create_version()
        assert failed["error"]["code"] == "ProvisioningError"
        assert "hunter2" not in str(failed)


# Code deployments


@pytest.mark.parametrize("parts", [as_sync_sdk, as_async_sdk, as_azd])
async def test_code_in_the_form_of_every_client(
    platform: PlatformUnderTest, parts: Callable[[bytes], Sequence[Part]]
) -> None:
    """Parts are told apart by name: order and content types differ by client."""
    package = code_zip()
    made = await platform.call("POST", VERSIONS, **encoded(parts(package)))
    assert made.status == 200, made.body
    shown = made.json()["definition"]["code_configuration"]
    assert shown["content_hash"] == hashlib.sha256(package).hexdigest()
    assert shown["entry_point"] == ["main.py"]
    assert (await platform.settled("a1", "1"))["status"] == "active"


async def test_code_can_be_downloaded_again(platform: PlatformUnderTest) -> None:
    """Of the latest version or of the one that is named, byte for byte."""
    one, two = code_zip(), code_zip({"main.py": "print(2)"})
    await platform.call("POST", VERSIONS, **encoded(as_azd(one)))
    await platform.call("POST", VERSIONS, **encoded(as_azd(two)))
    path = f"{PROJECT}/agents/a1/code:download"
    latest = await platform.call("GET", path)
    assert (latest.status, latest.body) == (200, two)
    assert latest.headers["content-type"] == "application/zip"
    assert latest.headers["x-ms-agent-version"] == "2"
    assert latest.headers["x-ms-code-zip-sha256"] == hashlib.sha256(two).hexdigest()
    assert (await platform.call("GET", f"{path}?agent_version=1")).body == one
    assert (await platform.call("GET", f"{path}?agent_version=9")).status == 404


async def test_a_refused_upload_leaves_no_file(platform: PlatformUnderTest) -> None:
    """Neither for a bad definition nor for a name that is taken; one that a version runs stays."""
    kept = platform.installation.layout.code
    await platform.call("POST", VERSIONS, **encoded(as_azd(code_zip())))
    before = list(kept.iterdir())
    assert len(before) == 1
    upload = encoded(as_azd(code_zip({"main.py": "print(2)"})))
    upload["headers"]["x-ms-agent-name"] = "a1"
    assert (await platform.call("POST", f"{PROJECT}/agents", **upload)).status == 409
    again = encoded(as_azd(code_zip()))
    again["headers"]["x-ms-agent-name"] = "a1"
    assert (await platform.call("POST", f"{PROJECT}/agents", **again)).status == 409
    assert list(kept.iterdir()) == before
    await platform.settled("a1", "1")


async def test_uploads_of_one_zip_share_it(platform: PlatformUnderTest) -> None:
    """One that is refused does not take away what another one is about to run."""
    await platform.create_version()
    upload = encoded(as_azd(code_zip()))
    taken = {**upload, "headers": {**upload["headers"], "x-ms-agent-name": "a1"}}
    paths = [f"{PROJECT}/agents/b{number}/versions" for number in range(3)]
    calls = [platform.call("POST", path, **upload) for path in paths]
    refused, *made = await asyncio.gather(
        platform.call("POST", f"{PROJECT}/agents", **taken),
        *calls,
        platform.call("POST", f"{PROJECT}/agents", **taken),
    )
    assert refused.status == made.pop().status == 409
    assert [answer.status for answer in made] == [200] * 3
    for number in range(3):
        assert (await platform.settled(f"b{number}", "1"))["status"] == "active"
    assert len(list(platform.installation.layout.code.iterdir())) == 1


async def test_an_image_has_no_code_to_download(platform: PlatformUnderTest) -> None:
    """409 `AgentNotCodeBased`."""
    await platform.create_version()
    answer = await platform.call("GET", f"{PROJECT}/agents/a1/code:download")
    assert (answer.status, answer.error["code"]) == (409, "AgentNotCodeBased")


async def test_code_that_was_removed_by_hand(platform: PlatformUnderTest) -> None:
    """404 with a sentence, no internal error."""
    await platform.call("POST", VERSIONS, **encoded(as_azd(code_zip())))
    await platform.settled("a1", "1")
    for package in platform.installation.layout.code.iterdir():
        package.unlink()
    answer = await platform.call("GET", f"{PROJECT}/agents/a1/code:download")
    assert (answer.status, answer.error["param"]) == (404, "agent_version")
    assert "upload it again" in answer.error["message"]


async def test_an_agent_without_versions_has_nothing_to_download(platform: PlatformUnderTest) -> None:
    """The sentence speaks of no version by the name of None."""
    await platform.create_version()
    await platform.call("DELETE", f"{VERSIONS}/1")
    answer = await platform.call("GET", f"{PROJECT}/agents/a1/code:download")
    assert answer.status == 404
    assert "None" not in answer.error["message"]


async def test_the_same_zip_makes_no_version(platform: PlatformUnderTest) -> None:
    """Its content counts, as for images."""
    for _ in range(2):
        made = await platform.call("POST", VERSIONS, **encoded(as_azd(code_zip())))
    assert made.json()["version"] == "1"
    changed = await platform.call("POST", VERSIONS, **encoded(as_azd(code_zip({"main.py": "print(2)"}))))
    assert changed.json()["version"] == "2"


@pytest.mark.parametrize(
    ("upload", "param", "said"),
    [
        (encoded(as_azd(code_zip()), sha256="00" * 32), "x-ms-code-zip-sha256", "damaged on the way"),
        (encoded([Part("metadata", metadata())]), "code", "lacks the part 'code'"),
        (encoded([Part("metadata", metadata()), Part("code", b"no file")]), "code", "lacks the part 'code'"),
        (encoded(as_azd(b"this is no zip")), "code", "not a zip"),
        (encoded(as_azd(code_zip({"../evil": "x"}))), "code", "leads out of it"),
        (encoded(as_sync_sdk(code_zip(), b"{")), "metadata", "'metadata' is not valid JSON"),
        (encoded(as_sync_sdk(code_zip(), b"[]")), "metadata", "JSON object"),
        (encoded([Part("code", code_zip(), "a.zip")]), "metadata", "lacks the part 'metadata'"),
        (encoded(as_sync_sdk(code_zip(), b"{}")), "definition", "required"),
        (encoded(as_sync_sdk(code_zip(), metadata(DEFINITION))), "definition", "names an image"),
    ],
)
async def test_uploads_that_are_refused(
    platform: PlatformUnderTest, upload: Mapping[str, Any], param: str, said: str
) -> None:
    """400 with the part at fault, and no version is made."""
    answer = await platform.call("POST", VERSIONS, **upload)
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param
    assert said in answer.error["message"]
    assert (await platform.call("GET", f"{PROJECT}/agents/a1")).status == 404


async def test_a_broken_multipart_body(platform: PlatformUnderTest) -> None:
    """400 in the envelope, not an internal error."""
    upload = encoded(as_azd(code_zip()))
    for spoilt in (
        {**upload, "raw": b"nonsense"},
        {**upload, "headers": {"content-type": "multipart/form-data"}},
        {**upload, "raw": upload["raw"][:50]},
    ):
        answer = await platform.call("POST", VERSIONS, **spoilt)
        assert answer.status == 400, answer.body
        assert answer.error["message"]


async def test_a_body_beyond_the_limit_is_refused_before_it_is_read(platform: PlatformUnderTest) -> None:
    """Nobody fills the disk with an upload that would be refused anyway."""
    upload = encoded(as_azd(code_zip()))
    upload["headers"]["content-length"] = str(300 * 1024 * 1024)
    answer = await platform.call("POST", VERSIONS, **upload)
    assert (answer.status, answer.error["code"]) == (413, "payload_too_large")


async def test_code_whose_entry_point_is_missing(platform: PlatformUnderTest) -> None:
    """The version fails in the first phase and names what is in the zip."""
    package = code_zip({"app.py": "x = 1"})
    await platform.call("POST", VERSIONS, **encoded(as_azd(package)))
    failed = await platform.settled("a1", "1")
    assert failed["status"] == "failed"
    assert (failed["error"]["phase"], failed["error"]["code"]) == ("validate", "CodeError")
    assert "app.py" in failed["error"]["message"]


async def test_images_choose_their_behaviour(tmp_path: Path) -> None:
    """Two versions of one agent run two images; the old one serves until the new one is active."""

    def by_image(source: Source) -> Behaviour:
        broken = isinstance(source, ImageSource) and source.image == "agent:2"
        return Behaviour(exit_code=1) if broken else Behaviour(handler=echo)

    async with open_platform(tmp_path, by_image) as platform:
        await platform.create_version()
        failed = await platform.create_version("a1", {**DEFINITION, "container_configuration": {"image": "agent:2"}})
        assert failed["status"] == "failed"
        assert (await platform.ask()).status == 200
