"""What every driver promises: one body of tests, run over each place where sandboxes can run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from uuid import uuid4

import pytest

from cupola.drivers.base import (
    LABEL_INSTALLATION,
    LABEL_SANDBOX,
    LABEL_SESSION,
    Address,
    Driver,
    Handle,
    Life,
    Observation,
    SandboxSpec,
    Step,
)
from tests.contract.place import MIB, PLACES, Agent, Place, ask, open_place

DEADLINE = 20.0
"""Seconds after which what a test waits for will not come."""


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """Each place in turn, empty at the beginning and at the end."""
    async with AsyncExitStack() as stack:
        opened = await open_place(stack, request.param, tmp_path)
        await opened.driver.callback_reach()
        yield opened
        for found in await opened.driver.list():
            await opened.driver.stop(found.handle, 0)
        for home in ("h1", "h2"):
            await opened.driver.delete_home(home)


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    """Waits until `look` says yes."""
    async with asyncio.timeout(DEADLINE):
        while not await look():
            await asyncio.sleep(0.02)


async def start(driver: Driver, spec: SandboxSpec) -> Handle:
    """The last handle of a start."""
    handles = [handle async for handle in driver.start(spec)]
    return handles[-1]


async def answers(handle: Handle) -> bool:
    try:
        return (await ask(address(handle), "GET", "/readiness"))[0] == 200
    except OSError:
        return False


def address(handle: Handle) -> Address:
    assert handle.address is not None
    return handle.address


async def serve(place: Place, agent: Agent = Agent.ECHO, **wishes: object) -> Handle:
    """A sandbox that answers its readiness probe."""
    source = place.source(agent)
    await place.driver.prepare(source, lambda line: None)
    handle = await start(place.driver, place.spec(source, **wishes))  # type: ignore[arg-type]  # passed through
    await eventually(lambda: answers(handle))
    return handle


async def end(driver: Driver, handle: Handle) -> Observation:
    """What is observed once a sandbox no longer runs."""

    async def over() -> bool:
        return (await driver.poll(handle)).life is not Life.RUNNING

    await eventually(over)
    return await driver.poll(handle)


async def environment(handle: Handle, name: str) -> str | None:
    status, body = await ask(address(handle), "GET", f"/environment/{name}")
    return body.decode() if status == 200 else None


async def test_steps_come_in_order_and_the_last_has_an_address(place: Place) -> None:
    """A start yields CREATED, then STARTED with an address that answers."""
    spec = place.spec(place.source(Agent.ECHO))
    handles = [handle async for handle in place.driver.start(spec)]
    assert [handle.step for handle in handles] == [Step.CREATED, Step.STARTED]
    assert {handle.driver for handle in handles} == {place.name}
    await eventually(lambda: answers(handles[-1]))
    assert (await place.driver.poll(handles[-1])) == Observation(Life.RUNNING)


async def test_a_handle_survives_being_saved(place: Place) -> None:
    """A handle that went through JSON is as good as the first."""
    handle = await serve(place)
    saved = Handle.from_json(handle.to_json())
    assert saved == handle
    assert (await place.driver.poll(saved)).life is Life.RUNNING


async def test_stop_may_be_repeated(place: Place) -> None:
    """After a stop the sandbox is gone, and a second stop is done already."""
    handle = await serve(place)
    await place.driver.stop(handle, 5)
    assert (await place.driver.poll(handle)).life is Life.GONE
    await place.driver.stop(handle, 5)
    assert not await answers(handle)
    assert await place.driver.list() == []


async def test_an_unknown_handle_is_gone(place: Place) -> None:
    """A handle that names nothing is no error in any call."""
    handle = Handle(place.name, uuid4().hex, Step.STARTED, Address("127.0.0.1", 1))
    assert await place.driver.poll(handle) == Observation(Life.GONE)
    assert await place.driver.output(handle, 5) == []
    assert not await place.driver.listeners(handle)
    assert await place.driver.usage(handle) is None
    await place.driver.stop(handle, 0)
    await place.driver.delete_home("never-seen")


async def test_a_home_outlives_its_sandbox(place: Place) -> None:
    """Files in HOME are there for the next sandbox of the same home, and for no other."""
    first = await serve(place, home="h1")
    assert (await ask(address(first), "PUT", "/files/note", b"kept"))[0] == 200
    await place.driver.stop(first, 5)
    again = await serve(place, home="h1")
    assert await ask(address(again), "GET", "/files/note") == (200, b"kept")
    other = await serve(place, home="h2")
    assert (await ask(address(other), "GET", "/files/note"))[0] == 404


async def test_a_deleted_home_is_empty_when_it_comes_back(place: Place) -> None:
    """delete_home removes the files, and may be repeated."""
    first = await serve(place)
    await ask(address(first), "PUT", "/files/note", b"lost")
    await place.driver.stop(first, 5)
    await place.driver.delete_home("h1")
    await place.driver.delete_home("h1")
    again = await serve(place)
    assert (await ask(address(again), "GET", "/files/note"))[0] == 404


async def test_a_copy_of_a_home_is_a_home_of_its_own(place: Place) -> None:
    """A home that is in use is copied with its size; what is written later, on either side, stays there."""
    first = await serve(place, home="h1")
    await ask(address(first), "PUT", "/files/note", b"at first")
    await ask(address(first), "PUT", "/files/more", b"12345")
    assert await place.driver.copy_home("h1", "h2") == 13
    await ask(address(first), "PUT", "/files/note", b"later")
    copy = await serve(place, home="h2")
    assert await ask(address(copy), "GET", "/files/note") == (200, b"at first")
    assert await ask(address(copy), "GET", "/files/more") == (200, b"12345")
    await ask(address(copy), "PUT", "/files/note", b"elsewhere")
    assert await ask(address(first), "GET", "/files/note") == (200, b"later")


async def test_a_copy_replaces_what_the_target_held(place: Place) -> None:
    """A copy may be repeated: the target is then as the source is now, and holds nothing from before."""
    first = await serve(place, home="h1")
    await ask(address(first), "PUT", "/files/note", b"kept")
    other = await serve(place, home="h2")
    await ask(address(other), "PUT", "/files/stale", b"old")
    await place.driver.stop(other, 5)
    for _ in range(2):
        assert await place.driver.copy_home("h1", "h2") == 4
    copy = await serve(place, home="h2")
    assert await ask(address(copy), "GET", "/files/note") == (200, b"kept")
    assert (await ask(address(copy), "GET", "/files/stale"))[0] == 404


async def test_a_copy_of_a_home_that_was_never_used_is_empty(place: Place) -> None:
    """There is nothing to copy, and what the target held is gone all the same."""
    other = await serve(place, home="h2")
    await ask(address(other), "PUT", "/files/stale", b"old")
    await place.driver.stop(other, 5)
    assert await place.driver.copy_home("never-seen", "h2") == 0
    copy = await serve(place, home="h2")
    assert (await ask(address(copy), "GET", "/files/stale"))[0] == 404


async def test_output_and_exit_code_of_a_crash(place: Place) -> None:
    """A process that ended is EXITED with its code, and its last lines can still be read.

    One line went to stdout, one to stderr: an engine reads two pipes, so which came first is not known to it.
    """
    handle = await start(place.driver, place.spec(place.source(Agent.CRASH)))
    assert await end(place.driver, handle) == Observation(Life.EXITED, 3)

    async def printed() -> bool:
        return sorted(await place.driver.output(handle, 10)) == ["first line", "second line"]

    await eventually(printed)
    assert len(await place.driver.output(handle, 1)) == 1


async def test_the_environment_arrives(place: Place) -> None:
    """The process sees what the spec says and what only the driver can know, and nothing of ours."""
    handle = await serve(place, environment={"GREETING": "good day", "EMPTY": ""})
    assert await environment(handle, "GREETING") == "good day"
    assert await environment(handle, "EMPTY") == ""
    for name in ("HOME", "PORT", "DEFAULT_AD_PORT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        assert await environment(handle, name), name
    assert await environment(handle, "PORT") == await environment(handle, "DEFAULT_AD_PORT")
    assert await environment(handle, "PYTEST_CURRENT_TEST") is None


async def test_list_finds_by_label(place: Place) -> None:
    """list names every sandbox of this installation with its labels."""
    spec = place.spec(place.source(Agent.ECHO), labels={LABEL_SESSION: "s1"})
    await start(place.driver, spec)
    (found,) = await place.driver.list()
    wanted = {
        LABEL_INSTALLATION: place.installation,
        LABEL_SANDBOX: spec.sandbox_id,
        LABEL_SESSION: "s1",
    }
    assert {name: found.labels.get(name) for name in wanted} == wanted


async def test_a_restarted_server_adopts(place: Place) -> None:
    """A new driver object polls, reads and stops what an earlier one has started."""
    handle = await serve(place)
    await place.driver.aclose()
    driver = await place.restart()
    (found,) = await driver.list()
    assert found.handle.step is Step.STARTED
    for known in (handle, found.handle):
        assert (await driver.poll(known)).life is Life.RUNNING
        assert "listening" in await driver.output(known, 10)
    assert found.handle.address == handle.address
    await driver.stop(found.handle, 5)
    assert (await driver.poll(handle)).life is Life.GONE
    assert await driver.list() == []


async def test_sigterm_lets_the_agent_finish(place: Place) -> None:
    """An agent that handles SIGTERM ends by itself, well before the grace is over."""
    handle = await serve(place)
    began = time.monotonic()
    await place.driver.stop(handle, 15)
    assert time.monotonic() - began < 10
    again = await serve(place)
    assert await ask(address(again), "GET", "/files/terminated") == (200, b"yes")


async def test_sigkill_after_the_grace(place: Place) -> None:
    """An agent that ignores SIGTERM lives for the grace and not longer."""
    handle = await serve(place, Agent.STUBBORN)
    began = time.monotonic()
    await place.driver.stop(handle, 1)
    assert time.monotonic() - began >= 0.9
    assert (await place.driver.poll(handle)).life is Life.GONE
    assert not await answers(handle)


async def test_a_shorter_stop_overtakes_a_longer_one(place: Place) -> None:
    """An agent that ignores SIGTERM is gone at once when somebody does not want to wait; both stops return."""
    handle = await serve(place, Agent.STUBBORN)
    for patient, impatient in (
        (place.driver.end(handle, 600), place.driver.end),
        (place.driver.stop(handle, 600), place.driver.stop),
    ):
        waiting = asyncio.create_task(patient)
        await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE):
            await impatient(handle, 0)
            await waiting
    assert (await place.driver.poll(handle)).life is Life.GONE
    assert await place.driver.list() == []


async def test_the_processor_time_of_all_processes_is_seen(place: Place) -> None:
    """Also of a child that has ended; of what is gone there is none."""
    handle = await serve(place)
    before = await place.driver.usage(handle)
    assert before is not None
    assert (await ask(address(handle), "GET", "/burn"))[0] == 200
    after = await place.driver.usage(handle)
    assert after is not None
    assert 0.29 <= after - before < 10
    await place.driver.stop(handle, 5)
    assert await place.driver.usage(handle) is None


async def test_the_memory_limit_holds(place: Place) -> None:
    """A process that takes more memory than it may is ended for it, or gets no more."""
    limit = 128 * MIB if place.names_out_of_memory else 512 * MIB
    handle = await serve(place, Agent.EAT_MEMORY, memory=limit)
    try:
        async with asyncio.timeout(DEADLINE):
            await ask(address(handle), "POST", "/eat")
    except OSError:
        pass
    if place.names_out_of_memory:
        seen = await end(place.driver, handle)
        assert seen.life is Life.EXITED
        assert seen.out_of_memory
        assert seen.exit_code in (137, None)
    else:
        assert any("MemoryError" in line for line in await place.driver.output(handle, 40))


async def test_listeners_are_seen(place: Place) -> None:
    """Diagnosis sees which address a process has bound, or says that it cannot see."""
    handle = await start(place.driver, place.spec(place.source(Agent.LOCAL_ONLY)))

    async def listening() -> bool:
        seen = await place.driver.listeners(handle)
        return seen is None or bool(seen)

    await eventually(listening)
    seen = await place.driver.listeners(handle)
    assert seen is None or {one.host for one in seen} == {"127.0.0.1"}


async def test_a_start_that_is_given_up_leaves_nothing(place: Place) -> None:
    """Closing the generator after CREATED, then stopping that handle, undoes the start."""
    async with aclosing(place.driver.start(place.spec(place.source(Agent.ECHO)))) as starting:
        handle = await anext(starting)
    assert handle.step is Step.CREATED
    assert [found.handle.step for found in await place.driver.list()] == [Step.CREATED]
    await place.driver.stop(handle, 0)
    assert await place.driver.list() == []
    assert (await place.driver.poll(handle)).life is Life.GONE


async def test_a_started_sandbox_can_be_stopped_by_its_first_handle(place: Place) -> None:
    """After a crash only CREATED may have been saved; that handle undoes the whole sandbox."""
    handles = [handle async for handle in place.driver.start(place.spec(place.source(Agent.ECHO)))]
    await place.driver.stop(handles[0], 5)
    assert (await place.driver.poll(handles[1])).life is Life.GONE
    assert await place.driver.list() == []


async def test_an_installation_sees_only_its_own(place: Place) -> None:
    """list leaves out what another installation has labelled."""
    spec = place.spec(place.source(Agent.ECHO), labels={LABEL_INSTALLATION: "somebody-else"})
    handle = await start(place.driver, spec)
    assert await place.driver.list() == []
    await place.driver.stop(handle, 0)
