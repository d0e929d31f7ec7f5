"""What readers of a run see, composed from the store: series without their attempts' seams, layers of a window, alerts.

The pages, the report and QueryService all read through here, so that they cannot disagree. Everything blocks: call it
from a worker thread.
"""
