"""A client of an older server: generated from older.proto into the folder argv[1], it talks to the one at argv[2]."""

import sys

import grpc

sys.path.insert(0, sys.argv[1])
import older_pb2
import older_pb2_grpc

with grpc.insecure_channel(sys.argv[2]) as channel:
    stub = older_pb2_grpc.ChatServiceStub(channel)
    created = stub.CreateSession(older_pb2.CreateSessionRequest(model_id="demo?chunks=3&rate=0"), timeout=10)
    assert created.success and created.session_id, created

    Request, Response = older_pb2.ChatRequest, older_pb2.ChatResponse
    session = created.session_id
    requests = [
        Request(type=Request.PING, session_id=session, timestamp="now"),
        Request(type=Request.TYPING_START, session_id=session),
        Request(type=Request.TYPING_STOP, session_id=session),
        Request(session_id=session, message="Hello"),
        Request(session_id="unknown", message="Hello"),
    ]
    responses = list(stub.Chat(iter(requests), timeout=10))
    kinds = [Response.Type.Name(response.type) for response in responses]
    turn = [response for response in responses if response.type not in (Response.PONG, Response.SESSION_UPDATE)]
    assert kinds[0] == "PONG", kinds
    failed = next(response for response in turn if response.type == Response.ERROR)
    turn.remove(failed)
    assert failed.error_message and failed.session_id == "unknown", failed
    names = [Response.Type.Name(response.type) for response in turn]
    assert names == ["RESPONSE_START", "STATUS", "CHUNK", "CHUNK", "CHUNK", "RESPONSE_COMPLETE"], names
    assert all(response.session_id == session for response in turn)
    assert [response.chunk_number for response in turn[2:5]] == [1, 2, 3]
    assert [response.is_final for response in turn[2:5]] == [False, False, True]
    assert turn[1].status_message == "Generating response..." and turn[1].context_messages == 1
    assert turn[5].total_chunks == 3 and turn[5].message_count == 2 and turn[5].timestamp

    info = stub.GetSessionInfo(older_pb2.SessionInfoRequest(session_id=session), timeout=10)
    assert (info.success, info.session_id, info.message_count) == (True, session, 2), info
    assert (info.user_messages, info.model_messages) == (1, 1) and info.created_at
    listed = stub.ListSessions(older_pb2.ListSessionsRequest(), timeout=10)
    assert listed.active_sessions == 1 and listed.sessions[0].message_count == 2, listed
    stats = stub.GetServerStats(older_pb2.ServerStatsRequest(), timeout=10)
    assert stats.successful_requests == 1 and stats.framework and stats.model, stats
    assert stub.DeleteSession(older_pb2.DeleteSessionRequest(session_id=session), timeout=10).success
    try:
        stub.GetSessionInfo(older_pb2.SessionInfoRequest(session_id=session), timeout=10)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND, error
    else:
        raise AssertionError("the session is still there")
