"""Where records come in: gRPC servicers, decoding, limits, and the log between the event loop and the worker."""
