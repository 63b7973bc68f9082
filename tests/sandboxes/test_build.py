"""Code packages: what is refused, what is made of them, and that it is made once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupola.errors import BadRequest, StartFailed
from cupola.sandboxes.build import (
    Built,
    Interpreter,
    build,
    choose_interpreter,
    command,
    fault,
    find_interpreters,
    our_interpreter,
)
from cupola.sandboxes.packages import MAX_PACKAGE, MAX_UNPACKED, inspect_zip

OURS = Interpreter(Path("/usr/bin/python3.11"), "3.11")
NEWER = Interpreter(Path("/usr/bin/python3.13"), "3.13")
RUNTIME = f"python_{sys.version_info.major}_{sys.version_info.minor}"


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    """A zip of these files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return stream.getvalue()


class Workshop:
    """Builds packages in a directory of its own and keeps what was reported."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reported: list[str] = []

    async def build(
        self,
        files: Mapping[str, str | bytes],
        entry_point: Sequence[str] = ("main.py",),
        dependency_resolution: str = "bundled",
        runtime: str = RUNTIME,
    ) -> Built:
        content = zipped(files)
        sha256 = hashlib.sha256(content).hexdigest()
        package = self.root / f"{sha256}.zip"
        package.write_bytes(content)
        return await build(
            package,
            sha256=sha256,
            runtime=runtime,
            entry_point=entry_point,
            dependency_resolution=dependency_resolution,
            builds=self.root / "builds",
            environments=self.root / "environments",
            report=self.reported.append,
        )

    def made(self, folder: str) -> list[str]:
        """What stands finished or half-finished in a folder, without locks."""
        return sorted(path.name for path in (self.root / folder).glob("*") if path.suffix != ".lock")


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def refusal(package: bytes) -> str:
    with pytest.raises(BadRequest) as caught:
        inspect_zip(package)
    assert caught.value.param == "code"
    return caught.value.message


def test_a_good_zip_is_listed() -> None:
    """inspect_zip names what is in a zip."""
    assert inspect_zip(zipped({"main.py": "", "app/one.py": ""})) == ("main.py", "app/one.py")


def test_what_is_no_zip_is_refused() -> None:
    """Bytes that are no zip, or a zip of nothing, get a sentence."""
    assert "not a zip" in refusal(b"hello")
    assert "no files" in refusal(zipped({}))


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.py", "app/../../up.py", "C:/x.py", "..\\up.py", "a\\b.py"])
def test_paths_that_lead_out_are_refused(name: str) -> None:
    """No entry is written outside the directory of its build."""
    assert "path" in refusal(zipped({"main.py": "", name: ""}))


def test_links_are_refused() -> None:
    """A link could point at anything of the host."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(entry, "/etc/passwd")
    assert "link" in refusal(stream.getvalue())


def test_the_same_name_twice_is_refused() -> None:
    """Which of two files is meant would be a guess."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        opened.writestr("main.py", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            opened.writestr("main.py", "2")
    assert "twice" in refusal(stream.getvalue())


def test_bombs_are_refused() -> None:
    """A small upload may not fill the disk."""
    assert "times its size" in refusal(zipped({"zeros": bytes(80 * 1024 * 1024)}))


def test_the_limit_is_foundrys() -> None:
    """250 MB packed, 2 GB unpacked."""
    assert (MAX_PACKAGE, MAX_UNPACKED) == (262_144_000, 2_147_483_648)
    assert "limit" in refusal(bytes(MAX_PACKAGE + 1))


def test_the_runtimes_interpreter_is_chosen_when_it_is_here() -> None:
    """A runtime gets its own interpreter without a word."""
    assert choose_interpreter("python_3_13", {"3.13": NEWER}, OURS) == (NEWER, None)
    assert choose_interpreter("python_3_11", {}, OURS) == (OURS, None)


def test_another_interpreter_comes_with_a_warning() -> None:
    """Without the asked version the code runs on ours, and the user is told."""
    chosen, warning = choose_interpreter("python_3_13", {}, OURS)
    assert chosen == OURS
    assert warning is not None
    assert "python_3_13 is not installed here: the sandbox runs on Python 3.11" in warning


@pytest.mark.parametrize("runtime", ["dotnet_10", "node", ""])
def test_other_languages_are_named(runtime: str) -> None:
    """A runtime that is not Python fails in validation with the way out."""
    with pytest.raises(StartFailed, match="container image") as caught:
        choose_interpreter(runtime, {}, OURS)
    assert (caught.value.phase, caught.value.code) == ("validate", "CodeError")


async def test_interpreters_that_only_seem_to_be_there_are_not_found() -> None:
    """A version that PATH does not have, or only as an empty launcher, is not offered."""
    available, ours = await find_interpreters("python_3_99")
    assert available == {}
    assert ours.program.exists()


@pytest.mark.parametrize(
    ("entry_point", "rest"),
    [
        (["main.py"], ("main.py",)),
        (["main.py", "--fast"], ("main.py", "--fast")),
        (["python", "main.py"], ("main.py",)),
        (["python3", "-m", "app"], ("-m", "app")),
        (["python3.13", "-m", "app"], ("-m", "app")),
    ],
)
def test_entry_points_run_in_the_interpreter(entry_point: list[str], rest: tuple[str, ...]) -> None:
    """Each documented form of an entry point becomes a full argument vector."""
    assert command(entry_point, OURS) == ("/usr/bin/python3.11", "-s", *rest)


def test_other_programs_stay_as_they_are() -> None:
    """An entry point that names a program is left alone."""
    assert command(["uvicorn", "app:app"], OURS) == ("uvicorn", "app:app")


async def test_code_is_unpacked_with_its_packages(workshop: Workshop) -> None:
    """A bundled package has its `packages/` on the import path."""
    built = await workshop.build({"main.py": "print('hi')", "packages/lib.py": "x = 1", "data/": ""})
    assert built.warnings == ()
    assert (built.source.directory / "main.py").read_text() == "print('hi')"
    assert built.source.import_path == (built.source.directory / "packages",)
    assert built.source.command == (str(our_interpreter().program), "-s", "main.py")


async def test_a_missing_runtime_warns(workshop: Workshop) -> None:
    """The warning of the interpreter's choice comes back with the build and is reported."""
    built = await workshop.build({"main.py": ""}, runtime="python_3_99")
    assert len(built.warnings) == 1
    assert built.warnings[0] in workshop.reported


async def test_a_folder_too_many_is_shown(workshop: Workshop) -> None:
    """A missing entry point names what the zip has at its root."""
    with pytest.raises(StartFailed, match=r"'main.py' is not in the zip. At its root are: agent/, notes.txt") as caught:
        await workshop.build({"agent/main.py": "", "notes.txt": ""})
    assert (caught.value.phase, caught.value.code) == ("validate", "CodeError")


async def test_the_one_folder_too_many_is_named(workshop: Workshop) -> None:
    """When the file stands in the only folder at the root, the sentence says so."""
    with pytest.raises(StartFailed, match=r"It is in agent/: zip the content of that folder"):
        await workshop.build({"agent/main.py": "", "agent/notes.txt": ""})


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a": "1", "a/main.py": "2"}, "within a file of that name"),
        ({"a/b": "1", "a/b/c/main.py": "2"}, "within a file of that name"),
        ({"n" * 256 + ".py": "1"}, "shorter names"),
        ({"/".join(["ä" * 60] * 20): "1"}, "shorter names"),
    ],
)
def test_what_no_disk_could_hold_is_refused(files: Mapping[str, str], said: str) -> None:
    """Before anything is written, with the path at fault, shortened."""
    with pytest.raises(BadRequest, match=said) as caught:
        inspect_zip(zipped(files))
    assert len(caught.value.message) < 300


def test_unknown_packing_is_refused() -> None:
    """A method that we cannot unpack would only fail later."""
    package = bytearray(zipped({"main.py": "1"}))
    directory = package.index(b"PK\x01\x02")
    package[directory + 10 : directory + 12] = b"\x63\x00"
    with pytest.raises(BadRequest, match="method 99; use deflate"):
        inspect_zip(bytes(package))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 40))
def test_a_spoilt_zip_is_refused_with_a_sentence(spoilt: list[tuple[int, int]], cut: int) -> None:
    """Whichever bytes are wrong or missing: it works, is refused, or fails its version; nothing half-made stays."""
    package = bytearray(zipped({"main.py": "print(1)" * 30, "packages/x.py": "x = 1", "a/b/c.txt": "c" * 99}))
    for position, value in spoilt:
        package[position % len(package)] = value
    content = bytes(package[: len(package) - cut])
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "code.zip"
        path.write_bytes(content)
        made: Built | None = None
        with contextlib.suppress(BadRequest, StartFailed):
            inspect_zip(content)
            made = asyncio.run(
                build(
                    path,
                    sha256="0" * 64,
                    runtime=RUNTIME,
                    entry_point=["sh", "-c", "true"],
                    dependency_resolution="bundled",
                    builds=Path(root) / "builds",
                    environments=Path(root) / "environments",
                    report=lambda line: None,
                )
            )
        left = [entry.name for entry in (Path(root) / "builds").glob("*") if entry.is_dir()]
        assert left == (["0" * 64] if made is not None else [])


async def test_unpacking_happens_once(workshop: Workshop) -> None:
    """Two builders of one zip wait for one, and nothing half-made stays."""
    await asyncio.gather(*(workshop.build({"main.py": "1"}) for _ in range(3)))
    assert workshop.reported.count("Unpacking the code") == 1
    assert len(workshop.made("builds")) == 1


async def test_a_damaged_zip_leaves_nothing(workshop: Workshop) -> None:
    """A file that unpacks wrong is refused, and no directory looks finished."""
    package = bytearray(zipped({"main.py": "print(1)" * 40}))
    package[40] ^= 0xFF
    path = workshop.root / "broken.zip"
    path.write_bytes(package)
    with pytest.raises(StartFailed, match="damaged"):
        await build(
            path,
            sha256="0" * 64,
            runtime=RUNTIME,
            entry_point=["main.py"],
            dependency_resolution="bundled",
            builds=workshop.root / "builds",
            environments=workshop.root / "environments",
            report=workshop.reported.append,
        )
    assert workshop.made("builds") == []


LIBRARY = {
    "lib/pyproject.toml": (
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        "[project]\nname = 'greeter'\nversion = '1'\n"
    ),
    "lib/backend.py": """
import zipfile
FILES = {
    "greeter.py": "WORD = 'hello'",
    "greeter-1.dist-info/METADATA": "Metadata-Version: 2.1\\nName: greeter\\nVersion: 1",
    "greeter-1.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any",
}
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "greeter-1-py3-none-any.whl"
    with zipfile.ZipFile(directory + "/" + name, "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
        wheel.writestr("greeter-1.dist-info/RECORD", "".join(path + ",,\\n" for path in FILES))
    return name
""",
}
"""A package that pip builds without asking any index."""


async def test_requirements_are_installed_once(workshop: Workshop) -> None:
    """Packages with the same requirements share one environment, which the agent can import from."""
    first = {"main.py": "import greeter; print(greeter.WORD)", "requirements.txt": "./lib\n", **LIBRARY}
    one, two = await asyncio.gather(
        workshop.build(first, dependency_resolution="remote_build"),
        workshop.build({**first, "other.py": ""}, dependency_resolution="remote_build"),
    )
    assert one.source.import_path == two.source.import_path
    assert len(workshop.made("environments")) == 1
    assert sum(line.startswith("Installing requirements.txt") for line in workshop.reported) == 1
    ran = subprocess.run(
        one.source.command,
        cwd=one.source.directory,
        env={"PYTHONPATH": str(one.source.import_path[0])},
        capture_output=True,
        check=True,
    )
    assert ran.stdout == b"hello\n"


async def test_a_requirement_that_cannot_be_installed_is_quoted(workshop: Workshop) -> None:
    """A failed build carries pip's own line and the log, and leaves no environment."""
    with pytest.raises(StartFailed, match=r"(?i)error: .*missing-folder") as caught:
        await workshop.build(
            {"main.py": "", "requirements.txt": "./missing-folder\n"}, dependency_resolution="remote_build"
        )
    assert (caught.value.phase, caught.value.code) == ("build", "CodeError")
    assert caught.value.extra["log"]
    assert workshop.made("environments") == []


async def test_no_requirements_is_fine(workshop: Workshop) -> None:
    """A remote build without requirements.txt installs nothing."""
    built = await workshop.build({"main.py": ""}, dependency_resolution="remote_build")
    assert built.source.import_path == ()


def test_the_faulty_line_is_the_last_error() -> None:
    """pip's last error line is quoted; without one, its last words."""
    assert fault(["Collecting x", "ERROR: no x", "ERROR: No matching distribution", ""]).endswith("distribution")
    assert fault(["Collecting x", "killed", ""]) == "killed"


def test_a_zip_whose_files_begin_before_it_is_damaged() -> None:
    """The end of the zip says that the list of files stands further behind than it does."""
    package = bytearray(zipped({"main.py": "print(1)"}))
    where = package.rindex(b"PK\5\6") + 16
    package[where : where + 4] = (int.from_bytes(package[where : where + 4], "little") + 1000).to_bytes(4, "little")
    with pytest.raises(BadRequest, match=r"damaged|not a zip"):
        inspect_zip(bytes(package))
