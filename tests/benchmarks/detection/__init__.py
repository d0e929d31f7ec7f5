"""A public benchmark of detectors: labelled training runs of our own making, a scorer, and the rules of our peers."""
