"""What is done to stored data while nobody waits for it: merged, summarised, thinned out, deleted; piece by piece."""

from seismograd_server.maintenance.worker import Chore, Maintenance

__all__ = ["Chore", "Maintenance"]
