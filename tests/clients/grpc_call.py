"""grpcio: ``HOST:PORT METHOD [stream]``. Prints the replies, or the code and details of the refusal."""

import sys

import grpc

path = f"/leasehold.test.Echo/{sys.argv[2]}"
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials()) as channel:
    try:
        if "stream" in sys.argv[3:]:
            for reply in channel.unary_stream(path)(b"hello", timeout=20):
                print("REPLY", reply.decode())
        else:
            print("REPLY", channel.unary_unary(path)(b"hello", timeout=20).decode())
    except grpc.RpcError as refused:
        print("GRPC", refused.code().name, refused.details())
        print(dict(refused.initial_metadata() or ()))
