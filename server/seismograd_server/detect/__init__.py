"""Pure detection: closed steps in, findings out. No I/O, no clock, no randomness."""
