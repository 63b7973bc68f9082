"""What doctor finds in clients' code, in a shell and on a machine."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

from cupola.cli.doctor_code import Finding, findings, parsed_version, python_files
from cupola.cli.doctor_machine import Check, Verdict, clients, installed_versions, shell_python
from cupola.cli.output import Exit
from cupola.cli.variables import variables_of
from tests.cli.conftest import Command

OLD_GUIDE = """\
from azure.ai.projects import AIProjectClient
from azure.ai.projects.models import AgentProtocol, ImageBasedHostedAgentDefinition, ProtocolVersionRecord

client = AIProjectClient(endpoint=ENDPOINT, credential=credential)
agent = client.agents.create_version(
    agent_name="a",
    definition=ImageBasedHostedAgentDefinition(
        container_protocol_versions=[ProtocolVersionRecord(protocol=AgentProtocol.RESPONSES, version="v1")],
        cpu="1",
        memory="2Gi",
        image=IMAGE,
        tools=[{"type": "code_interpreter"}],
        environment_variables={"MODEL_NAME": "gpt-4o-mini"},
    ),
)
print(agent.name, agent.state)
for version in client.agents.list_versions(agent_name="a"):
    print(version.version, version.state)
client.agents.delete_version(agent_name="a", version="1")
"""
NEW = "2.10.0"


def found(
    tmp_path: Path, source: str, sdk: str | None = NEW, environment: dict[str, str] | None = None
) -> list[Finding]:
    path = tmp_path / "client.py"
    path.write_text(source)
    return findings(path, sdk, environment or {})


def test_versions_of_the_sdk_are_put_in_order() -> None:
    """Betas come before their release."""
    ordered = ["1.0.0", "2.0.0b3", "2.0.0b4", "2.0.0", "2.0.1", "2.2.0", "2.10.0"]
    assert sorted(ordered, key=parsed_version) == ordered


def test_every_stumbling_block_of_the_old_guide_is_found(tmp_path: Path) -> None:
    """With today's SDK: the imports, the definition, the state and the parameter, each at its line."""
    assert [(each.line, each.what.partition(":")[0]) for each in found(tmp_path, OLD_GUIDE)] == [
        (2, "ImportError"),
        (7, f"ImageBasedHostedAgentDefinition does not exist in azure-ai-projects {NEW} (installed)."),
        (16, "AttributeError"),
        (18, "AttributeError"),
        (19, "TypeError"),
    ]


def test_with_the_sdk_of_the_guide_its_imports_are_fine(tmp_path: Path) -> None:
    """2.0.0b3 has the old names, but never had a state or that parameter."""
    assert [each.line for each in found(tmp_path, OLD_GUIDE, "2.0.0b3")] == [16, 18, 19]


@pytest.mark.parametrize(
    ("sdk", "gone"),
    [
        ("2.0.0b4", ["ImageBased"]),
        ("2.2.0", ["ImageBased"]),
        ("2.3.0", ["ImageBased", "AgentProtocol"]),
    ],
)
def test_each_name_goes_with_its_own_release(tmp_path: Path, sdk: str, gone: list[str]) -> None:
    """The definition went with 2.0.0b4, the enumeration with 2.3.0 (control-plane.md §2.2.1)."""
    what = found(tmp_path, OLD_GUIDE, sdk)[0].what
    assert [name for name in ("ImageBased", "AgentProtocol") if name in what] == gone


def test_without_an_sdk_todays_is_meant(tmp_path: Path) -> None:
    """That is what `pip install` would bring."""
    assert "today's azure-ai-projects" in found(tmp_path, OLD_GUIDE, None)[0].what


def test_the_lines_to_write_instead_run_with_todays_sdk(tmp_path: Path) -> None:
    """The rewritten import and definition are tried with the official models, where they are installed."""
    models = pytest.importorskip("azure.ai.projects.models", reason="needs azure-ai-projects")
    if not hasattr(models, "ContainerConfiguration"):
        pytest.skip("needs a newer azure-ai-projects")
    imports, definition = (each.instead for each in found(tmp_path, OLD_GUIDE)[:2])
    scope: dict[str, object] = {"IMAGE": "registry/name:1"}
    exec(imports, scope)
    made = eval(definition.partition("\n#")[0], scope)
    assert made["container_configuration"]["image"] == "registry/name:1"
    assert made["environment_variables"] == {"MODEL_NAME": "gpt-4o-mini"}
    assert made["protocol_versions"][0]["version"] == "2.0.0"


def test_status_and_parameter_are_spelled_out(tmp_path: Path) -> None:
    """Read a status by its key, which works in every generation; name the parameter as it is called."""
    instead = [each.instead for each in found(tmp_path, OLD_GUIDE)]
    assert instead[2:4] == ['agent["status"]', 'version["status"]']
    assert instead[4] == "client.agents.delete_version(agent_name='a', agent_version='1')"
    ast.parse(instead[4])


def test_async_code_is_read_as_well(tmp_path: Path) -> None:
    """`await` and `async for` hide nothing."""
    source = (
        "import azure.ai.projects.aio\n"
        "async def main():\n"
        "    made = await client.agents.create_version(agent_name='a', definition=d)\n"
        "    print(made.state)\n"
        "    async for each in client.agents.list_versions(agent_name='a'):\n"
        "        print(each.state)\n"
        "    await client.agents.delete_version(agent_name='a', version='1')\n"
    )
    assert [each.line for each in found(tmp_path, source)] == [4, 6, 7]


def test_other_states_and_versions_are_left_alone(tmp_path: Path) -> None:
    """Only what is nearly certain is reported."""
    source = (
        "import azure.ai.projects\n"
        "job.state; request.app.state\n"
        "registry.get_image(version='1')\n"
        "agent = client.agents.get('a'); agent.state = 1\n"
    )
    assert found(tmp_path, source) == []
    assert found(tmp_path, "shop.get_version(version=1)\n") == []


def test_plain_http_endpoints_are_found(tmp_path: Path) -> None:
    """No bearer token is sent there, however the string is written."""
    source = (
        "from azure.ai.projects import AIProjectClient\n"
        "AIProjectClient(endpoint='http://localhost:8080/api/projects/demo', credential=c)\n"
        "AIProjectClient(f'http://{host}/api/projects/demo', c)\n"
        "AIProjectClient(endpoint='https://localhost:8443/api/projects/demo', credential=c)\n"
    )
    assert [each.line for each in found(tmp_path, source)] == [2, 3]


def test_a_missing_endpoint_variable_is_found_where_it_is_read(tmp_path: Path) -> None:
    """Unless the shell has it, or the code can do without."""
    source = (
        "import os, azure.identity\n"
        "os.environ['AZURE_AI_PROJECT_ENDPOINT']\n"
        "os.environ.get('FOUNDRY_PROJECT_ENDPOINT')\n"
    )
    assert [each.line for each in found(tmp_path, source)] == [2]
    assert found(tmp_path, source, environment={"AZURE_AI_PROJECT_ENDPOINT": "https://x"}) == []


def test_newer_names_with_an_older_sdk_are_found(tmp_path: Path) -> None:
    """The other way round: today's samples with yesterday's package."""
    (only,) = found(tmp_path, "from azure.ai.projects.models import ContainerConfiguration\n", "2.0.1")
    assert only.instead == 'pip install "azure-ai-projects>=2.10"'


def test_what_is_not_python_is_said(tmp_path: Path) -> None:
    """A file that cannot be parsed is a finding, not a crash."""
    (only,) = found(tmp_path, "import azure\ndef broken(:\n")
    assert (only.line, "not Python" in only.what) == (2, True)


def test_installed_packages_are_not_read(tmp_path: Path) -> None:
    """Environments, hidden directories and caches are passed over; a file that is named is always read."""
    for name in ("a.py", "deep/b.py", ".hidden/c.py", "env/lib/d.py", "node_modules/e.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    assert python_files([tmp_path]) == [tmp_path / "a.py", tmp_path / "deep" / "b.py"]
    assert python_files([tmp_path / ".hidden" / "c.py"]) == [tmp_path / ".hidden" / "c.py"]


def problems(state_dir: Path, environment: dict[str, str], **versions: str) -> list[Check]:
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    return [check for check in clients(state_dir, environment, "python", named) if check.verdict is Verdict.PROBLEM]


def test_the_shell_of_a_running_platform_is_compared(platform: int, state_dir: Path) -> None:
    """All variables loaded is fine; an old value of one is named."""
    loaded = variables_of(state_dir, "other-project")
    assert problems(state_dir, loaded) == []
    (only,) = problems(state_dir, loaded | {"IDENTITY_HEADER": "of yesterday"})
    assert "IDENTITY_HEADER" in only.text
    assert "of yesterday" not in only.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AZURE_AI_PROJECT_ENDPOINT", "http://localhost:8443/api/projects/demo"),
        ("SSL_CERT_FILE", "/nowhere/bundle.pem"),
        ("IDENTITY_SERVER_THUMBPRINT", "x"),
    ],
)
def test_variables_that_cannot_work_are_named(state_dir: Path, name: str, value: str) -> None:
    """Each would fail later with an error that does not say why."""
    (only,) = problems(state_dir, {name: value})
    assert name in only.text


def test_packages_that_cannot_work_are_named(state_dir: Path) -> None:
    """azure-identity 1.23 refuses the credential's name; the first SDKs knew no hosted agents."""
    assert problems(state_dir, {}, azure_identity="1.23.1", azure_ai_projects="1.0.0b5") != []
    assert problems(state_dir, {}, azure_identity="1.24.0", azure_ai_projects="2.10.0") == []


def test_the_python_of_the_shell_is_asked(tmp_path: Path) -> None:
    """Clients' packages are in the active environment, which need not be ours."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert shell_python({"VIRTUAL_ENV": str(tmp_path)}) == str(tmp_path / "bin" / "python")
    assert shell_python({"PATH": ""}) == sys.executable
    assert installed_versions(str(tmp_path / "none")) == {}


def test_doctor_exits_with_1_when_there_is_something_to_change(cupola: Command, tmp_path: Path) -> None:
    """Findings on stdout, as text and as JSON."""
    path = tmp_path / "client.py"
    path.write_text(OLD_GUIDE)
    text = cupola("doctor", str(path))
    assert text.returncode == Exit.FAILED
    assert f"{path}:16" in text.stdout
    assert "write instead:" in text.stdout
    found = json.loads(cupola("doctor", str(path), "--output", "json").stdout)
    assert {"python", "engine", "bubblewrap", "platform"} <= {check["name"] for check in found["checks"]}
    assert any(each["line"] == 19 for each in found["findings"])


def test_doctor_refuses_a_path_that_does_not_exist(cupola: Command, tmp_path: Path) -> None:
    """A wrong path is wrong usage."""
    assert cupola("doctor", str(tmp_path / "none")).returncode == Exit.USAGE
