"""Settings: argument, environment, file, default; and every one of them is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cupola.cli.state_dir import chosen_state_dir
from cupola.errors import SetupError
from cupola.identity import Role
from cupola.settings import Settings, load

DOCS = Path(__file__).parents[1] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests may have variables of its own."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"CUPOLA_{name.upper()}", raising=False)


def test_an_argument_wins_over_the_environment_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest word counts; what nobody says has its default."""
    (tmp_path / "cupola.toml").write_text('port = 1000\nproject = "from-file"\nmax_sandboxes = 3\n')
    monkeypatch.setenv("CUPOLA_PORT", "2000")
    monkeypatch.setenv("CUPOLA_PROJECT", "from-environment")
    settings = load(state_dir=tmp_path, port=3000, driver=None)
    assert (settings.port, settings.project, settings.max_sandboxes) == (3000, "from-environment", 3)
    assert settings.driver == "auto"


def test_the_state_directory_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform in the background may be started from anywhere."""
    monkeypatch.chdir(tmp_path)
    assert load(state_dir=Path("state")).state_dir == tmp_path / "state"
    monkeypatch.setenv("CUPOLA_STATE_DIR", "other")
    assert load().state_dir == tmp_path / "other"


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """`CUPOLA_STATE_DIR= cupola up` means the default directory, not the current one."""
    usual = load()
    monkeypatch.setenv("CUPOLA_STATE_DIR", "")
    monkeypatch.setenv("CUPOLA_PORT", "")
    assert load() == usual


def test_commands_and_platform_agree_on_the_default_directory() -> None:
    """Commands do not read settings, for speed; they must mean the same place."""
    assert chosen_state_dir(None) == load().state_dir


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("port = 70000", "port"),
        ('driver = "vm"', "driver"),
        ("idle_timeout = 0", "idle_timeout"),
        ('log_level = "loud"', "log_level"),
        ("prot = 1", "prot"),
        ('oidc_issuer = "http://id.example"', "oidc_issuer"),
        ('oidc_issuer = "https://login.microsoftonline.com/common/v2.0"', "oidc_issuer"),
        ('oidc_default_role = "king"', "oidc_default_role"),
        ('oidc_audience = ""', "oidc_audience"),
    ],
)
def test_a_bad_value_stops_the_start_with_a_sentence(tmp_path: Path, line: str, name: str) -> None:
    """It names the setting and where such a value can come from; unknown names are bad too."""
    (tmp_path / "cupola.toml").write_text(line)
    with pytest.raises(SetupError, match=rf"'{name}'.*CUPOLA_{name.upper()} or cupola\.toml"):
        load(state_dir=tmp_path)


@pytest.mark.parametrize("content", [b"port = ", b"port = 1\xff"])
def test_a_damaged_file_stops_the_start_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    """The sentence names the file."""
    (tmp_path / "cupola.toml").write_bytes(content)
    with pytest.raises(SetupError, match=r"cupola\.toml is not valid TOML"):
        load(state_dir=tmp_path)


def test_roles_from_the_file_and_from_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table there, JSON here; a bad role is named with its value's place."""
    (tmp_path / "cupola.toml").write_text('[oidc_roles]\n"group-1" = "operator"\n')
    assert load(state_dir=tmp_path).oidc_roles == {"group-1": Role.OPERATOR}
    monkeypatch.setenv("CUPOLA_OIDC_ROLES", '{"group-2": "reader"}')
    assert load(state_dir=tmp_path).oidc_roles == {"group-2": Role.READER}
    monkeypatch.setenv("CUPOLA_OIDC_ROLES", '{"group-2": "king"}')
    with pytest.raises(SetupError, match=r"oidc_roles\.group-2"):
        load(state_dir=tmp_path)
    monkeypatch.setenv("CUPOLA_OIDC_ROLES", "group-2=reader")
    with pytest.raises(SetupError, match=r"oidc_roles.*JSON"):
        load(state_dir=tmp_path)


def test_every_setting_is_documented() -> None:
    """One line each: name, variable, default; and none that is not there any more."""
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", DOCS.read_text(), re.MULTILINE)
    assert dict(rows) == {name: f"CUPOLA_{name.upper()}" for name in Settings.model_fields}


def test_documented_defaults_are_the_defaults() -> None:
    """The page says what the code does."""
    page = DOCS.read_text()
    for name, field in Settings.model_fields.items():
        if field.default_factory is None:
            assert re.search(rf"^\| `{name}` \| `\w+` \| `{re.escape(str(field.default))}` \|", page, re.MULTILINE), (
                name
            )
