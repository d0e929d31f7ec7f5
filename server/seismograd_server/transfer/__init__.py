"""Runs from elsewhere, and runs for elsewhere: files of other programs in, ours out."""
