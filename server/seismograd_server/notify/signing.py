"""The signature of webhooks, by which a receiver knows that a body is ours and new."""

from __future__ import annotations

import hashlib
import hmac

HEADER = "Seismograd-Signature"


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """The header's value: `t=<Unix seconds>,v1=<HMAC-SHA256 of "<t>.<body>" in hexadecimal>`.

    A receiver computes the same, compares in constant time, and refuses a `t` that is more than five minutes away.
    """
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"
