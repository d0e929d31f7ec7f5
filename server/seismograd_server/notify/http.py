"""One request to somebody else's server, with everything bounded: time, size of the reply, and where it may lead."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence

import httpx

from seismograd_server.errors import PermanentDeliveryError, TransientDeliveryError

# A receiver that needs longer is asked again later; people are waiting for the other targets.
TIMEOUT_SECONDS = 5.0
# Of a reply only the beginning is of interest, and a hostile one has no end.
REPLY_LIMIT_BYTES = 64 * 1024
_STANDARD = {"Content-Type": "application/json", "User-Agent": "seismograd", "Accept-Encoding": "identity"}
# As much of a reply as an error message repeats.
_EXCERPT_BYTES = 200

# The receiver has read this very body and will never take it. Everything else may be mended meanwhile: a token that
# rotates, a proxy that redirects while it restarts, a path that is about to be deployed.
_NEVER = frozenset({400, 410, 413, 422})


async def exchange(
    method: str,
    url: httpx.URL,
    body: bytes,
    headers: Mapping[str, str],
    *,
    context: ssl.SSLContext | None = None,
    addresses: Sequence[str] = (),
) -> bytes:
    """Send a body, take any 2xx as its delivery, and give the beginning of the reply.

    Args:
        method: as in HTTP.
        url: where to.
        body: what to send.
        headers: more headers.
        context: certificates to trust, for https.
        addresses: when given, connect to the first of these that answers and to nothing else; the name in the URL is
            then used for the Host header and the certificate only.

    Raises:
        PermanentDeliveryError: the receiver will never take this body.
        TransientDeliveryError: anything else: no connection, no answer in time, a redirect, any other status.
    """
    try:
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            httpx.AsyncClient(
                follow_redirects=False,
                trust_env=False,  # a proxy of the environment would resolve the name again
                timeout=TIMEOUT_SECONDS,
                verify=context if context is not None else False,  # False: never used, http only
            ) as client,
        ):
            return await _to_first(client, method, url, body, headers=headers, addresses=addresses)
    except TimeoutError as error:
        raise TransientDeliveryError(f"{url.host} did not answer within {TIMEOUT_SECONDS:g} s") from error
    except (httpx.HTTPError, ssl.SSLError, OSError) as error:
        raise TransientDeliveryError(f"{url.host}: {type(error).__name__}: {error}") from error


async def _to_first(
    client: httpx.AsyncClient,
    method: str,
    url: httpx.URL,
    body: bytes,
    *,
    headers: Mapping[str, str],
    addresses: Sequence[str],
) -> bytes:
    if not addresses:
        return await _send(client.build_request(method, url, content=body, headers=_STANDARD | dict(headers)), client)
    pinned = {**headers, "Host": url.netloc.decode("ascii")}
    for index, address in enumerate(addresses):
        request = client.build_request(
            method,
            url.copy_with(host=address),
            content=body,
            headers=_STANDARD | pinned,
            extensions={"sni_hostname": url.host},
        )
        try:
            return await _send(request, client)
        except httpx.ConnectError:
            if index == len(addresses) - 1:
                raise
    raise AssertionError("unreachable: the last address returns or raises")


async def _send(request: httpx.Request, client: httpx.AsyncClient) -> bytes:
    response = await client.send(request, stream=True)
    try:
        beginning = await _beginning(response)
    finally:
        await response.aclose()
    if response.is_success:
        return beginning
    excerpt = beginning[:_EXCERPT_BYTES].decode("utf-8", "replace").strip()
    message = f"answered {response.status_code}: {excerpt}"
    if response.status_code in _NEVER:
        raise PermanentDeliveryError(message)
    raise TransientDeliveryError("answered with a redirect, which is not followed" if response.is_redirect else message)


async def _beginning(response: httpx.Response) -> bytes:
    received = bytearray()
    async for chunk in response.aiter_raw():  # raw: a small compressed reply may be a large one
        received += chunk
        if len(received) >= REPLY_LIMIT_BYTES:
            break
    return bytes(received[:REPLY_LIMIT_BYTES])
