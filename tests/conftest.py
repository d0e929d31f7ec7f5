"""What every test may use: real programs as processes, and an endpoint that receives what is posted to it."""

pytest_plugins = [
    "tests.support.processes",
    "tests.support.receiver",
    "tests.support.monitoring",
    "tests.support.seismograd",
]
