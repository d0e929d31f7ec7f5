"""`seismograd demo`: the main job from end to end, on this machine, with nothing made up.

    server (a process) <-- gRPC -- two ranks (processes) that train a real model, first healthy, then pushed
       '-- JSON API --> demo: watches, tells, and judges whether the alert came before the failure

Read `story.py` first.
"""

from seismograd_server.demo.command import demo

__all__ = ["demo"]
