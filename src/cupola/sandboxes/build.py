"""Turns the zip of a code deployment into something a driver can start.

A zip is checked before anything of it is written, unpacked once per content, and for `remote_build` its
requirements are installed once per (requirements, interpreter). Both land in place by one rename, so that a
build that was interrupted leaves nothing that looks finished, and builders who race agree on the first one
done.

Left out: compiling (`dotnet_*` runtimes), and deleting what no version uses any more, which needs the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cupola.drivers.base import CodeSource, Report
from cupola.errors import StartFailed
from cupola.sandboxes.packages import DAMAGED, inspect_zip
from cupola.secrecy import brief

LOG_LINES = 40
"""Lines of pip's output that a failure carries."""

QUESTION = (
    "import os, sys; print(os.path.realpath(getattr(sys, '_base_executable', sys.executable)));"
    "print(*sys.version_info[:2], sep='.')"
)
"""What an interpreter is asked: which program it is, outside any virtual environment, and its version."""

TICK = 0.05
"""Seconds between looks at a lock that another builder holds."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python to run agents with: its program outside any virtual environment, and its version as `3.13`."""

    program: Path
    version: str


@dataclass(frozen=True, slots=True)
class Built:
    """What a build made, and what the user should know about it."""

    source: CodeSource
    warnings: tuple[str, ...] = ()


def choose_interpreter(
    runtime: str, available: Mapping[str, Interpreter], ours: Interpreter
) -> tuple[Interpreter, str | None]:
    """The interpreter for a `runtime` such as `python_3_13`, and a warning when it is another than was asked
    for.

    `available` maps versions (`3.13`) to interpreters found here, `ours` is the one that always exists.
    """
    asked = re.fullmatch(r"python_(\d+)_(\d+)", runtime)
    if asked is None:
        raise StartFailed(
            f"The runtime {runtime!r} cannot be run here: Cupola runs Python code (python_3_11 and later). "
            "Build a container image for other languages.",
            phase="validate",
            code="CodeError",
        )
    version = f"{asked[1]}.{asked[2]}"
    if version in available:
        return available[version], None
    if version == ours.version:
        return ours, None
    return ours, (
        f"The runtime {runtime} is not installed here: the sandbox runs on Python {ours.version}. "
        f"Install python{version} and create the version again for the real one."
    )


def our_interpreter() -> Interpreter:
    """The Python that runs Cupola, without the virtual environment that Cupola is in."""
    program = Path(getattr(sys, "_base_executable", None) or sys.executable)
    return Interpreter(program.resolve(), f"{sys.version_info.major}.{sys.version_info.minor}")


async def find_interpreters(runtime: str) -> tuple[dict[str, Interpreter], Interpreter]:
    """What `choose_interpreter` asks for: the interpreter of that version on PATH, if it runs, and ours."""
    ours = our_interpreter()
    asked = re.fullmatch(r"python_(\d+)_(\d+)", runtime)
    if asked is None or f"{asked[1]}.{asked[2]}" == ours.version:
        return {}, ours
    version = f"{asked[1]}.{asked[2]}"
    program = await asyncio.to_thread(shutil.which, f"python{version}")
    found = None if program is None else await _ask_interpreter(program)
    return ({version: found} if found is not None and found.version == version else {}), ours


async def _ask_interpreter(program: str) -> Interpreter | None:
    """What a program on PATH really is: it may be a launcher for a version that is not installed."""
    code, lines = await _run([program, "-I", "-c", QUESTION], dict(os.environ), lambda line: None)
    if code != 0 or len(lines) < 2:
        return None
    return Interpreter(Path(lines[-2]), lines[-1])


def command(entry_point: Sequence[str], interpreter: Interpreter) -> tuple[str, ...]:
    """The argument vector of an entry point: `main.py`, `python main.py` and `python -m app` run in
    `interpreter`.

    `-s` keeps the packages of the user who runs Cupola out of the agent's import path.
    """
    first, *rest = entry_point
    python = (str(interpreter.program), "-s")
    if re.fullmatch(r"python(3(\.\d+)?)?", first):
        return (*python, *rest)
    if first.endswith(".py"):
        return (*python, first, *rest)
    return (first, *rest)


def entry_file(entry_point: Sequence[str]) -> str | None:
    """The file that an entry point needs to find in the zip; None where only running it can tell."""
    first, *rest = entry_point
    if first.endswith(".py"):
        return first
    if re.fullmatch(r"python(3(\.\d+)?)?", first) and rest and rest[0].endswith(".py"):
        return rest[0]
    return None


async def build(
    package: Path,
    *,
    sha256: str,
    runtime: str,
    entry_point: Sequence[str],
    dependency_resolution: str,
    builds: Path,
    environments: Path,
    report: Report,
) -> Built:
    """Unpacks a package into `builds`, installs what it requires into `environments`, and says how to start it.

    `dependency_resolution` is `bundled` or `remote_build`. Each thing is made once however many ask for it.
    Raises `BadRequest` for a zip that may not be unpacked, `StartFailed` with phase `validate` for one that cannot be
    started, or `build` when its requirements cannot be installed.
    """
    interpreter, warning = choose_interpreter(runtime, *await find_interpreters(runtime))
    if warning is not None:
        report(warning)
    directory = await _unpacked(package, builds / sha256, report)
    await asyncio.to_thread(_require_entry, directory, entry_point)
    if dependency_resolution == "remote_build":
        imports = await _installed(directory / "requirements.txt", environments, interpreter, report)
    else:
        imports = await asyncio.to_thread(_bundled, directory)
    source = CodeSource(directory, imports, command(entry_point, interpreter))
    return Built(source, () if warning is None else (warning,))


async def _unpacked(package: Path, target: Path, report: Report) -> Path:
    async with _once(target) as draft:
        if draft is not None:
            report("Unpacking the code")
            await asyncio.to_thread(_unpack, package, draft)
    return target


async def _installed(
    requirements: Path, environments: Path, interpreter: Interpreter, report: Report
) -> tuple[Path, ...]:
    try:
        wanted = await asyncio.to_thread(requirements.read_bytes)
    except FileNotFoundError:
        report("No requirements.txt at the root of the zip: nothing to install")
        return ()
    target = environments / environment_key(wanted, interpreter)
    async with _once(target) as draft:
        if draft is not None:
            report(f"Installing requirements.txt for Python {interpreter.version}")
            await _install(requirements, interpreter, draft, report)
    return (target,)


@asynccontextmanager
async def _once(target: Path) -> AsyncIterator[Path | None]:
    """A directory to fill that becomes `target` when the block ends well; None when `target` is there.

    Builders of the same thing, in this process or another, wait for one; if it fails, the next one tries.
    """
    async with _lock(target):
        draft = await asyncio.to_thread(_draft, target)
        if draft is None:
            yield None
            return
        try:
            yield draft
            await asyncio.to_thread(_move_into_place, draft, target)
        finally:
            await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)


@asynccontextmanager
async def _lock(target: Path) -> AsyncIterator[None]:
    """Holds the file lock beside `target`. The file stays: removing it would race with those who wait for it."""
    await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
    lock = os.open(target.parent / f".{target.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _try_lock(lock):  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(TICK)
        yield
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def environment_key(requirements: bytes, interpreter: Interpreter) -> str:
    """What names an installed set of requirements: its bytes and the interpreter that it was made for."""
    named = f"{interpreter.version}\0{interpreter.program}\0".encode()
    return hashlib.sha256(named + requirements).hexdigest()


def _draft(target: Path) -> Path | None:
    """An empty directory beside `target`, or None when `target` is there already."""
    if target.is_dir():
        return None
    return Path(tempfile.mkdtemp(prefix=f".{target.name[:16]}-", dir=target.parent))


def _bundled(directory: Path) -> tuple[Path, ...]:
    packages = directory / "packages"
    return (packages,) if packages.is_dir() else ()


def _move_into_place(draft: Path, target: Path) -> None:
    draft.chmod(0o755)
    try:
        draft.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _unpack(package: Path, directory: Path) -> None:
    inspect_zip(package)
    with zipfile.ZipFile(package) as opened:
        try:
            for entry in opened.infolist():
                place = Path(opened.extract(entry, directory))
                mode = (entry.external_attr >> 16) & 0o777
                if not entry.is_dir():
                    place.chmod(0o755 if mode & 0o111 else 0o644)
        except DAMAGED as error:
            raise _unusable(f"The zip is damaged: {error}.") from error
        except (NotADirectoryError, FileExistsError, IsADirectoryError) as error:
            raise _unusable("The zip holds a file and a folder of the same name; keep one of them.") from error
        except OSError as error:
            if error.errno is None:
                raise _unusable(f"The zip is damaged: {error}.") from error
            raise


def _unusable(message: str) -> StartFailed:
    return StartFailed(message, phase="validate", code="CodeError")


def _require_entry(directory: Path, entry_point: Sequence[str]) -> None:
    """Names what is at the root when the file to start is not: most often the zip has one folder too many."""
    wanted = entry_file(entry_point)
    if wanted is None or (directory / wanted).is_file():
        return
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in directory.iterdir())
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    nested = names[0] if len(names) == 1 and (directory / names[0] / wanted).is_file() else None
    remedy = (
        f"It is in {nested}: zip the content of that folder, not the folder."
        if nested is not None
        else "Zip the content of the folder, not the folder, or correct entry_point."
    )
    raise _unusable(f"The entry point {brief(wanted)} is not in the zip. At its root are: {shown}. {remedy}")


async def _install(requirements: Path, interpreter: Interpreter, target: Path, report: Report) -> None:
    """Runs our own pip for `interpreter`. The user's pip configuration and environment hold for this run
    only."""
    arguments = [sys.executable, "-m", "pip", "--python", str(interpreter.program), "install"]
    arguments += ["--target", str(target), "--requirement", str(requirements)]
    arguments += [
        "--no-input",
        "--disable-pip-version-check",
        "--no-warn-script-location",
        "--progress-bar",
        "off",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        code, lines = await _run(arguments, environment, report, requirements.parent)
    except OSError as error:
        raise StartFailed(f"pip could not be started: {error}.", phase="build", code="CodeError") from error
    if code != 0:
        raise StartFailed(
            f"The requirements could not be installed: {fault(lines)}",
            phase="build",
            code="CodeError",
            exit_code=code,
            extra={"log": lines},
        )


def fault(lines: Sequence[str]) -> str:
    """The line of pip's output that says what went wrong: the last error, else the last line."""
    errors = [line.strip() for line in lines if line.lstrip().lower().startswith("error:")]
    last = next((line.strip() for line in reversed(lines) if line.strip()), "pip said nothing.")
    return errors[-1] if errors else last


async def _run(
    arguments: Sequence[str], environment: Mapping[str, str], report: Report, directory: Path | None = None
) -> tuple[int, list[str]]:
    """Runs a program to its end, reporting its lines; its exit code and last lines. It dies with our
    patience."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        env=environment,
        cwd=directory,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=1 << 20,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: deque[str] = deque(maxlen=LOG_LINES)
    try:
        async for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            lines.append(line)
            report(line)
        return await process.wait(), list(lines)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
