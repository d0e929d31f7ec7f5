"""gRPC channels to a server as the options describe it: address, TLS, token, keepalive."""

from __future__ import annotations

from typing import Any

from seismograd.errors import OptionError
from seismograd.options import Options
from seismograd.quiet_grpc import grpc

_CHANNEL_OPTIONS = (
    # A dead peer is found within 40 seconds: half-open connections are what firewalls leave behind.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Retries are ours: gRPC's own see neither the queue nor RetryInfo, and end after five attempts.
    ("grpc.enable_retries", 0),
    # Each connection starts afresh; a shared pool would hand back a channel in the middle of its own back-off.
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(options: Options, max_message_bytes: int) -> Any:
    """A grpc.Channel to the server of the options. Raises OptionError when the certificate file cannot be read."""
    settings = [
        *_CHANNEL_OPTIONS,
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
    ]
    target = options.address.target
    if not options.tls:
        return grpc.insecure_channel(target, options=settings)
    authority = None
    if options.ca_file is not None:
        try:
            authority = options.ca_file.read_bytes()
        except OSError as error:
            raise OptionError(f"ca_file: cannot read {str(options.ca_file)!r}: {error}") from error
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority), options=settings)


def authorization(options: Options) -> list[tuple[str, str]]:
    """The metadata that carries the token; Options refuses a token that would travel unencrypted."""
    token = options.read_token()
    return [] if token is None else [("authorization", f"Bearer {token}")]
