"""What a client has heard of an answer."""

from __future__ import annotations

from starlette.types import Message

from tests.support.platform import Answer


class Receipt:
    """What a client has heard of one answer, up to the moment in which the platform died."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.whole = False

    def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            self.chunks.append(message.get("body", b""))
            self.whole = not message.get("more_body", False)

    @property
    def answer(self) -> Answer | None:
        """The answer, if all of it was heard."""
        return Answer(self.status, self.headers, tuple(self.chunks)) if self.whole else None
