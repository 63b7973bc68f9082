"""What callers may call a file, and what they mean by it."""

from __future__ import annotations

import errno

import pytest

from cupola.errors import BadRequest, SetupError
from cupola.files import HomePath, read_path, room_explained


@pytest.mark.parametrize(
    "text",
    ["a/b.csv", "/a/b.csv", "./a/b.csv", "~/a/b.csv", "/home/session/a/b.csv", "a//b.csv", "a/./b.csv", "a/b.csv/"],
)
def test_one_file_has_several_spellings(text: str) -> None:
    """From the home on, with or without a slash (azd), and as an agent sees it."""
    assert read_path(text) == HomePath(("a", "b.csv"))


@pytest.mark.parametrize("text", ["", ".", "/", "~", "~/", "/home/session", "/home/session/", "./."])
def test_the_home_itself(text: str) -> None:
    path = read_path(text)
    assert path.is_home
    assert str(path) == "."


@pytest.mark.parametrize(
    "text", ["home/session/a", "/home/sessions", "/home", "~ann/a", "a/~/b", "%2e%2e/a", "...", " ", "a\nb", "ä/ö.csv"]
)
def test_names_that_mean_nothing_special(text: str) -> None:
    """Only whole spellings of the home are taken for it, and nothing is decoded twice."""
    assert str(read_path(text)) == text.removeprefix("/")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("..", "'..'"),
        ("../a", "'..'"),
        ("a/../b", "'..'"),
        ("/home/session/../x", "'..'"),
        ("~/../x", "'..'"),
        ("a\0b", "NUL"),
        ("a\\b.csv", "parted by '/'"),
        ("..\\a", "backslash"),
        ("a" * 256, "255 bytes"),
        ("ä" * 128, "255 bytes"),
        ("/".join(["a" * 200] * 21), "4096 bytes"),
        ("\ud800", "Unicode"),
    ],
)
def test_what_no_file_can_be_called(text: str, said: str) -> None:
    """One sentence, with the value and the reason."""
    with pytest.raises(BadRequest) as refused:
        read_path(text)
    assert refused.value.param == "path"
    assert said in refused.value.message
    assert len(refused.value.message) < 200
    refused.value.message.encode()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said(number: int) -> None:
    """With the code that clients know from the store."""
    with pytest.raises(SetupError, match="No space is left") as caught, room_explained():
        raise OSError(number, "nothing more can be written")
    assert caught.value.code == "storage_full"


def test_other_errors_of_the_disk_pass() -> None:
    """They are no matter of room."""
    with pytest.raises(PermissionError), room_explained():
        raise PermissionError(errno.EACCES, "not yours")
