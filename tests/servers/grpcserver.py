"""A gRPC server in a process of its own: it echoes, and can say how many connections it has seen by their ports."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SERVICE = "test.Echo"


def serve(address: str, cert: str = "", key: str = "") -> None:
    import grpc  # noqa: PLC0415 - what starts this process needs only its path

    def once(request: bytes, context: Any) -> bytes:
        peer: str = context.peer()
        return request + b" from " + peer.encode()

    def twice(request: bytes, context: Any) -> Any:
        yield request
        yield context.peer().encode()

    def joined(requests: Any, context: Any) -> bytes:
        return b"".join(requests)

    def echoed(requests: Any, context: Any) -> Any:
        yield from requests

    handlers: Any = {
        "Once": grpc.unary_unary_rpc_method_handler(once),
        "Twice": grpc.unary_stream_rpc_method_handler(twice),
        "Joined": grpc.stream_unary_rpc_method_handler(joined),
        "Echoed": grpc.stream_stream_rpc_method_handler(echoed),
    }
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    if cert:
        with open(cert, "rb") as chain, open(key, "rb") as private:
            pair = (private.read(), chain.read())
        server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve(*sys.argv[1:])
