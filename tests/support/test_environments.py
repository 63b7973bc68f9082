"""What uv is told of pip's configuration (tests/support/environments.py)."""

from __future__ import annotations

from tests.support.environments import uv_variables


def test_uv_asks_where_pip_would() -> None:
    """Every option that says where packages come from reaches uv; a variable of pip wins over its files."""
    listed = [
        ":env:.index-url='https://mirror.invalid/simple'",
        "global.index-url='https://other.invalid/simple'",
        "global.extra-index-url='file:///one\\nfile:///two'",
        "global.find-links='/wheels /more'",
        "global.cert='/bundle.pem'",
        "global.timeout='60'",
        "download.index-url='https://not-for-installing.invalid'",
    ]
    assert uv_variables(listed) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "https://mirror.invalid/simple",
        "UV_INDEX": "file:///one file:///two",
        "UV_FIND_LINKS": "/wheels,/more",
        "SSL_CERT_FILE": "/bundle.pem",
    }
