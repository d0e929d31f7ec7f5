"""The composition root: settings in, a running server out. Nothing else builds anything."""

from seismograd_server.app.server import Server, run

__all__ = ["Server", "run"]
