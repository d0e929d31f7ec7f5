"""The composition root: settings in, a running server out. Nothing else builds anything."""

from seismograd_server.app.running import run
from seismograd_server.app.server import Server

__all__ = ["Server", "run"]
