"""The activity protocol: one Bot Framework activity per request.

With `deliveryMode: expectReplies` the container answers in the reply's body; otherwise it sends its replies to the
activity's `serviceUrl` by itself. The id in `x-agent-activity-id` is the activity's own, or the container makes one:
the platform only carries it (container-contract.md §3.5).
"""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from cupola.gateway.passage import Passage, named_session

_PROTOCOL = "activity"


class Activities:
    """ASGI endpoint of `/agents/{agent}/endpoint/protocols/activityprotocol` and its other spellings."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage

    async def send(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST activityprotocol`."""
        parameters, watch = scope["path_params"], scope["cupola.stopwatch"]
        watch.asks(parameters["project"], parameters["agent"], _PROTOCOL)
        await self._passage.take(
            scope, receive, send, protocol=_PROTOCOL, path="/activity/messages", session_id=named_session(scope)
        )
