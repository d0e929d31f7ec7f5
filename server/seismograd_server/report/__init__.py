"""The post-mortem: what happened to a run, when, which layer and rank came first, and what to try next.

`build` is pure; the renderers turn its Report into HTML, Markdown or JSON; `PostmortemWriter` reads the store for it,
and `ClipAdviser` for what is said of clipping alone.
"""

from seismograd_server.report.clip.adviser import ClipAdviser
from seismograd_server.report.postmortem import PostmortemWriter, ReportDocument

__all__ = ["ClipAdviser", "PostmortemWriter", "ReportDocument"]
