"""Reads clients' Python code for what users of older guides trip over, and says what to write instead.

The code is parsed, never run. Only what is nearly certain is reported: an import that fails with the installed SDK, a
parameter that does not exist, an attribute that models never had, an endpoint that no bearer token is sent to.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SDK = "azure-ai-projects"

_MODELS = "azure.ai.projects.models"
_OLD_DEFINITION, _OLD_PROTOCOL = "ImageBasedHostedAgentDefinition", "AgentProtocol"
_VERSION_GIVERS = ("create_version", "create_version_from_code", "get_version")
_ENDPOINT_VARIABLES = ("AZURE_AI_PROJECT_ENDPOINT", "FOUNDRY_PROJECT_ENDPOINT")
_SKIPPED_DIRECTORIES = frozenset({"node_modules", "site-packages", "__pycache__", "build", "dist", "venv"})
_MOST_FILES = 2000
_LONGEST_FILE = 1024 * 1024
_NO_PRERELEASE = 10**6


@dataclass(frozen=True, slots=True)
class Finding:
    """One place in a file: what happens there, and the lines to write instead."""

    path: Path
    line: int
    what: str
    instead: str


def parsed_version(version: str) -> tuple[int, int, int, int]:
    """A version of the SDK in comparable form; betas come before their release. Unreadable ones count as newest."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)(?:b(\d+))?", version)
    if match is None:
        return (_NO_PRERELEASE,) * 4
    major, minor, patch, beta = match.groups()
    return int(major), int(minor), int(patch), int(beta) if beta else _NO_PRERELEASE


_LAST_OLD_DEFINITION = parsed_version("2.0.0b3")
_LAST_OLD_PROTOCOL = parsed_version("2.2.0")
_FIRST_CONTAINER_CONFIGURATION = parsed_version("2.1.0")


def python_files(paths: Iterable[Path]) -> list[Path]:
    """The files named, and those in the directories named, without installed packages and hidden directories."""
    found: dict[Path, None] = {}
    for path in paths:
        for file in [path] if path.is_file() else _below(path):
            if len(found) >= _MOST_FILES:
                return list(found)
            found[file] = None
    return list(found)


def _below(directory: Path) -> Iterator[Path]:
    for parent, directories, files in os.walk(directory):
        directories[:] = sorted(name for name in directories if _is_looked_into(Path(parent) / name))
        yield from (Path(parent) / name for name in sorted(files) if name.endswith(".py"))


def _is_looked_into(directory: Path) -> bool:
    hidden = directory.name.startswith(".") or directory.name in _SKIPPED_DIRECTORIES
    return not hidden and not (directory / "pyvenv.cfg").exists()


def findings(path: Path, sdk: str | None, environment: Mapping[str, str]) -> list[Finding]:
    """What is wrong in one file for this version of the SDK (None: not installed, so the newest is meant)."""
    try:
        if path.stat().st_size > _LONGEST_FILE:
            return []
        source = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    if "azure" not in source and "delete_version" not in source:
        return []
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        return [Finding(path, line, f"This is not Python: {error}.", "Mend the syntax.")]
    reader = _Reader(path, sdk, environment, imports_azure="azure.ai.projects" in source)
    reader.visit(tree)
    return sorted(reader.found, key=lambda finding: finding.line)


class _Reader(ast.NodeVisitor):
    """Collects findings, and on the way the names that stand for versions."""

    def __init__(self, path: Path, sdk: str | None, environment: Mapping[str, str], *, imports_azure: bool) -> None:
        self.found: list[Finding] = []
        self._path = path
        self._sdk = sdk
        self._version = parsed_version(sdk or "")
        self._environment = environment
        self._imports_azure = imports_azure
        self._versions: set[str] = set()

    def _report(self, node: ast.AST, what: str, instead: str) -> None:
        self.found.append(Finding(self._path, getattr(node, "lineno", 1), what, instead))

    # What is imported

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module == _MODELS:
            gone = [alias.name for alias in node.names if self._is_gone(alias.name)]
            if gone:
                self._report(node, f"ImportError: {self._here()} has no {' and no '.join(gone)}.", _imports(node, gone))
            if self._version < _FIRST_CONTAINER_CONFIGURATION and any(
                alias.name == "ContainerConfiguration" for alias in node.names
            ):
                self._report(
                    node, f"ImportError: {self._here()} has no ContainerConfiguration.", f'pip install "{SDK}>=2.10"'
                )
        self.generic_visit(node)

    def _is_gone(self, name: str) -> bool:
        if name == _OLD_DEFINITION:
            return self._version > _LAST_OLD_DEFINITION
        return name == _OLD_PROTOCOL and self._version > _LAST_OLD_PROTOCOL

    def _here(self) -> str:
        return f"{SDK} {self._sdk} (installed)" if self._sdk else f"today's {SDK}"

    # What is called

    def visit_Call(self, node: ast.Call) -> None:
        name = _last_name(node.func)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        if name == _OLD_DEFINITION and self._is_gone(name):
            self._report(node, f"{name} does not exist in {self._here()}.", self._definition(keywords))
        elif name in ("delete_version", "get_version") and "version" in keywords and self._imports_azure:
            self._report(
                node,
                f"TypeError: the parameter of {name} is agent_version, not version.",
                ast.unparse(_with_agent_version(node)),
            )
        elif name == "AIProjectClient" and _is_plain_http(keywords.get("endpoint") or next(iter(node.args), None)):
            self._report(
                node,
                "The SDK sends no bearer token over plain http (ServiceRequestError: use https).",
                'AIProjectClient(endpoint=os.environ["AZURE_AI_PROJECT_ENDPOINT"], …)     # after `cupola env`',
            )
        self.generic_visit(node)

    def _definition(self, given: Mapping[str, ast.expr]) -> str:
        def value(name: str, default: str) -> str:
            return ast.unparse(given[name]) if name in given else default

        lines = [
            "HostedAgentDefinition(",
            f"    container_configuration=ContainerConfiguration(image={value('image', '…')}),",
            '    protocol_versions=[ProtocolVersionRecord(protocol="responses", version="2.0.0")],',
            f"    cpu={value('cpu', repr('1'))},",
            f"    memory={value('memory', repr('2Gi'))},",
        ]
        if "environment_variables" in given:
            lines.append(f"    environment_variables={value('environment_variables', '')},")
        lines.append(")")
        if "tools" in given:
            lines.append("# tools: no longer part of the definition; make a toolbox (client.toolboxes)")
        if self._version < _FIRST_CONTAINER_CONFIGURATION:
            lines.insert(0, f'# after: pip install "{SDK}>=2.10"')
        return "\n".join(lines)

    # Versions have a status, and no state

    def visit_Assign(self, node: ast.Assign) -> None:
        if _gives_version(node.value):
            self._versions.update(target.id for target in node.targets if isinstance(target, ast.Name))
        self.generic_visit(node)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        if isinstance(node.target, ast.Name) and _is_call_of(node.iter, ("list_versions",)):
            self._versions.add(node.target.id)
        self.generic_visit(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self.visit_For(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr == "state" and isinstance(node.ctx, ast.Load) and self._is_version(node.value):
            self._report(
                node,
                f"AttributeError: no {SDK} gives versions a .state; they have a status.",
                f'{ast.unparse(node.value)}["status"]',
            )
        self.generic_visit(node)

    def _is_version(self, node: ast.expr) -> bool:
        return _gives_version(node) or (isinstance(node, ast.Name) and node.id in self._versions)

    # Where the endpoint comes from

    def visit_Subscript(self, node: ast.Subscript) -> None:
        name = str(node.slice.value) if isinstance(node.slice, ast.Constant) else ""
        wanted = name in _ENDPOINT_VARIABLES and name not in self._environment
        if wanted and isinstance(node.ctx, ast.Load) and _last_name(node.value) == "environ":
            self._report(
                node,
                f"KeyError: {name} is not set in this shell.",
                f'eval "$(cupola env)"     # or: cupola run -- python {self._path}',
            )
        self.generic_visit(node)


def _last_name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _is_call_of(node: ast.expr, names: Collection[str | None]) -> bool:
    if isinstance(node, ast.Await):
        node = node.value
    return isinstance(node, ast.Call) and _last_name(node.func) in names


def _gives_version(node: ast.expr) -> bool:
    return _is_call_of(node, _VERSION_GIVERS)


def _is_plain_http(node: ast.expr | None) -> bool:
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("http://")


def _with_agent_version(node: ast.Call) -> ast.Call:
    keywords = [
        ast.keyword("agent_version" if keyword.arg == "version" else keyword.arg, keyword.value)
        for keyword in node.keywords
    ]
    return ast.Call(node.func, node.args, keywords)


def _imports(node: ast.ImportFrom, gone: Sequence[str]) -> str:
    """The same import with today's names."""
    names = [alias.name for alias in node.names if alias.name not in gone]
    if _OLD_DEFINITION in gone:
        names += ["ContainerConfiguration", "HostedAgentDefinition", "ProtocolVersionRecord"]
    kept = ", ".join(sorted(set(names)))
    strings = '# protocols are plain strings: protocol="responses"'
    if not kept:
        return strings
    return f"from {_MODELS} import {kept}" + (f"\n{strings}" if _OLD_PROTOCOL in gone else "")
