"""The composition root: settings in, a running server out. Nothing else builds anything."""

from seismograd_server.app.running import run
from seismograd_server.app.server import Server
from seismograd_server.app.wiring import try_out

__all__ = ["Server", "run", "try_out"]
