"""A seismograph for training runs: the client."""
