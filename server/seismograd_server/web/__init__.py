"""What a browser, a script and Prometheus can ask of the server: pages, the JSON API, health, `/metrics`.

It only reads, but for acknowledging an alert and deleting a run that is over.
"""

from seismograd_server.web.application import create_app
from seismograd_server.web.settings import WebSettings
from seismograd_server.web.standby import create_standby_app

__all__ = ["WebSettings", "create_app", "create_standby_app"]
