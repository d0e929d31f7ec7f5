"""Runnable training scripts, short and complete: copy from `char_lstm` first.

    python -m seismograd.examples.char_lstm --help                                        # one process
    torchrun --standalone --nproc-per-node 2 -m seismograd.examples.char_lstm --run mine  # two ranks

Each trains on the source text of Python's own standard library, which is on every machine, and each can be pushed over
the edge by the settings that its docstring names.
"""
