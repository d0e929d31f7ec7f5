"""The post-mortem: what happened to a run, when, which layer and rank came first, and what to try next.

`build` is pure; the renderers turn its Report into HTML, Markdown or JSON; `PostmortemWriter` reads the store for it,
`ClipAdviser` for what is said of clipping alone, and `RunComparer` for several runs side by side.
"""

from seismograd_server.report.clip.adviser import ClipAdviser
from seismograd_server.report.compare.comparer import RunComparer
from seismograd_server.report.postmortem import PostmortemWriter, ReportDocument

__all__ = ["ClipAdviser", "PostmortemWriter", "ReportDocument", "RunComparer"]
