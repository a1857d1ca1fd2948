"""The official health and reflection clients, in a process of their own: grpclib has the same messages, and protobuf
takes each only once. Talks to the server at argv[1]; says `watching`, and expects the server to drain then."""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

with grpc.insecure_channel(sys.argv[1]) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"chat.ChatService", "grpc.health.v1.Health"} <= set(database.get_services()), database.get_services()
    service = DescriptorPool(database).FindServiceByName("chat.ChatService")
    assert "StreamChat" in service.methods_by_name
    assert service.methods_by_name["Chat"].input_type.fields_by_name["idempotency_key"].number == 7

    health = health_pb2_grpc.HealthStub(channel)
    Request, Response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
    for name in ("", "chat.ChatService"):
        assert health.Check(Request(service=name), timeout=10).status == Response.SERVING
    try:
        health.Check(Request(service="other"), timeout=10)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND, error
    else:
        raise AssertionError("no such service, and yet it is well")

    watch = health.Watch(Request(service="chat.ChatService"), timeout=20)
    assert next(watch).status == Response.SERVING
    print("watching", flush=True)
    assert next(watch).status == Response.NOT_SERVING
    try:
        next(watch)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
