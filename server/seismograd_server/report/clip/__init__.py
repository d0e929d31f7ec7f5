"""What clipping did to a run, and would have done at other thresholds: from stored norms to a recommended threshold.

`study` is pure and is all there is on clipping: the post-mortem, the run's page, the API and `seismograd clip` show it.
"""
