"""The Prometheus page: the server's own instruments, and the families of runs from the snapshot of what is live."""

from seismograd_server.metrics.choice import ExportLimits
from seismograd_server.metrics.exposition import new_registry, page
from seismograd_server.metrics.layers import LayerChoice, parse_layers

__all__ = ["ExportLimits", "LayerChoice", "new_registry", "page", "parse_layers"]
