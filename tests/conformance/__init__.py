"""What the server composes from real processes, against one process that trains the same model alone."""
