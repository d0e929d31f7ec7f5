"""Runs side by side: what they were given, what they alerted of, and where their norms part. `compare` is pure."""
