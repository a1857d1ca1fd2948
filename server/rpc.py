"""The calls of `chat.ChatService` that have one request: messages in, messages or a turn to follow out.

gRPC and gRPC-Web share it. `METHODS` is the service as the `.proto` has it.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from proto import chat_pb2, pb
from proto.answers import SessionCreated
from proto.events import Event
from proto.grpc_web import frame
from proto.requests import after_seq, invalid
from server.chat import MAX_PAGE, PAGE, Chat
from server.clock import timestamp
from server.turn import Turn

SERVICE = "chat.ChatService"


class Method(NamedTuple):
    """A call of the service: which messages it takes and gives, and whether as streams."""

    name: str
    takes: type[Any]
    gives: type[Any]
    takes_stream: bool
    gives_stream: bool


def _methods() -> dict[str, Method]:
    described = chat_pb2.DESCRIPTOR.services_by_name["ChatService"].methods
    return {
        method.name: Method(
            method.name,
            getattr(chat_pb2, method.input_type.name),
            getattr(chat_pb2, method.output_type.name),
            method.client_streaming,
            method.server_streaming,
        )
        for method in described
    }


METHODS = _methods()


class Followed(NamedTuple):
    """A turn, and the cursor from which the caller wants it."""

    turn: Turn
    after: int


def framed_event(turn: Turn, event: Event) -> bytes:
    """An event as a message with its prefix, which is the same on gRPC and gRPC-Web."""
    return frame(pb.encode_event(event, turn.session_id))


class Rpc:
    """Answers the calls. A failure is a ChatError."""

    def __init__(self, chat: Chat, transport: str) -> None:
        self.chat = chat
        self._transport = transport
        self._answers: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "CreateSession": self._create_session,
            "GetSessionInfo": self._get_session_info,
            "ListSessions": self._list_sessions,
            "DeleteSession": self._delete_session,
            "ClearSession": self._clear_session,
            "GetServerStats": self._get_server_stats,
            "GetHistory": self._get_history,
            "CancelTurn": self._cancel_turn,
            "ListModels": self._list_models,
        }

    async def answer(self, method: str, request: Any) -> Any:
        """The answer of a call that has one."""
        return await self._answers[method](request)

    async def follow(self, request: Any, client: str) -> Followed | None:
        """The turn that `StreamChat` begins or `FollowTurn` names; None where nothing of it is left to follow."""
        if isinstance(request, chat_pb2.ChatRequest):
            if request.type != chat_pb2.ChatRequest.MESSAGE:
                raise invalid("StreamChat takes requests of the type MESSAGE; the others belong to Chat.")
            asked = pb.asked(request, self.chat.settings.max_message_chars)
            return Followed(await self.chat.send(asked, self._transport, client, make=False), 0)
        return await self.resume(request.turn_id, request.after)

    async def resume(self, turn_id: str, after: int) -> Followed | None:
        after = after_seq(after)
        turn = await self.chat.turn(turn_id)
        after = turn.check_cursor(after)
        if turn.nothing_left(after):
            return None
        if turn.running:
            self.chat.admit_reader()
        return Followed(turn, after)

    async def _create_session(self, request: chat_pb2.CreateSessionRequest) -> chat_pb2.CreateSessionResponse:
        session = await self.chat.new_session(request.model_id or None)
        created: chat_pb2.CreateSessionResponse = pb.to_message(SessionCreated(session.id, session.model, timestamp()))
        created.success, created.message = True, f"Session created with {session.model}"
        return created

    async def _get_session_info(self, request: chat_pb2.SessionInfoRequest) -> chat_pb2.SessionInfoResponse:
        return pb.session_info(await self.chat.detail(request.session_id, history=False))

    async def _get_history(self, request: chat_pb2.HistoryRequest) -> chat_pb2.HistoryResponse:
        return pb.session_history(await self.chat.detail(request.session_id))

    async def _list_sessions(self, request: chat_pb2.ListSessionsRequest) -> Any:
        if not 0 <= request.limit <= MAX_PAGE:
            raise invalid(f"'limit' must be from 1 to {MAX_PAGE}, or 0 for {PAGE}.")
        return pb.to_message(await self.chat.sessions(request.limit or PAGE, request.before or None))

    async def _delete_session(self, request: chat_pb2.DeleteSessionRequest) -> chat_pb2.DeleteSessionResponse:
        await self.chat.delete(request.session_id)
        return chat_pb2.DeleteSessionResponse(success=True, message=f"Session {request.session_id} deleted")

    async def _clear_session(self, request: chat_pb2.ClearSessionRequest) -> chat_pb2.ClearSessionResponse:
        await self.chat.clear(request.session_id)
        return chat_pb2.ClearSessionResponse(success=True, message=f"Session {request.session_id} cleared")

    async def _get_server_stats(self, request: chat_pb2.ServerStatsRequest) -> Any:
        return pb.to_message(self.chat.tell())

    async def _cancel_turn(self, request: chat_pb2.CancelTurnRequest) -> Any:
        return pb.to_message((await self.chat.cancel(request.turn_id)).snapshot())

    async def _list_models(self, request: chat_pb2.ListModelsRequest) -> Any:
        return pb.to_message(await self.chat.catalog.models())
