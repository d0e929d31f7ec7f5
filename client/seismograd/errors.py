"""Everything that the client can say went wrong, as one tree.

    SeismogradError
    ├── OptionError             an option that cannot work; the message names the option, the value and the fix
    └── QueryError              reading from a server failed
        ├── UnknownRunError         no such run; the message names the nearest one that exists
        ├── ServerUnreachableError  nobody answers at the address
        ├── AccessDeniedError       the server refuses the token
        └── BadAnswerError          the server answered something that this client cannot read

None of these ever reaches a training loop: `watch()` says them once by logging and goes on without telemetry.
"""

from __future__ import annotations


class SeismogradError(Exception):
    """Root of the tree. The message is one line that names the thing and the fix."""


class OptionError(SeismogradError, ValueError):
    """An option that cannot work."""


class QueryError(SeismogradError):
    """Reading from a server failed."""


class UnknownRunError(QueryError):
    """The server knows no such run."""


class ServerUnreachableError(QueryError):
    """Nobody answers at the address, or not in time."""


class AccessDeniedError(QueryError):
    """The server refuses the token, or wants one."""


class BadAnswerError(QueryError):
    """The server answered something that this client cannot read."""
