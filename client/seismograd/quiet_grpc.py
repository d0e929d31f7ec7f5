"""gRPC, imported so that it does not chatter into a training job's terminal.

Its core prints a line to stderr at every fork of a process that has a connection, so once per DataLoader worker and
epoch. It reads its verbosity when it is first imported and never again; a setting of the user's own is respected, and
nothing stays behind in the environment. When another library imported gRPC first, that library's choice stands.
"""

from __future__ import annotations

import os

_VARIABLE = "GRPC_VERBOSITY"

if _VARIABLE in os.environ:
    import grpc
else:
    os.environ[_VARIABLE] = "ERROR"
    try:
        import grpc
    finally:
        del os.environ[_VARIABLE]

__all__ = ["grpc"]
