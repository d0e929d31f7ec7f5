"""The server: takes telemetry, keeps it, watches it, and tells people."""
