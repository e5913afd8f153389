"""JSON over HTTPS, for issuers: RFC 9110, RFC 8259; and what is asked by a form.

What a provider could do with its answers, and cannot: send the request, and the secret in it, somewhere else (no
redirects, no proxies from the environment, no cookies), fill the memory, hold a connection for ever, or speak through
our errors: they carry a status at most, never its words.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import httpx

from leasehold.broker.issuers.answers import BYTES_MAX, UNREACHABLE, Answer, read
from leasehold.core.errors import IssuerError

_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_IDEMPOTENT = ("GET", "PUT", "DELETE")
"""What may be asked twice (RFC 9110, section 9.2.2)."""
_HUNG_UP = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
"""What comes of a kept connection that the server was just closing, among other things."""


class Rest:
    """A provider's API below ``server``, a URL. ``ca``: path of the PEM file that it is verified against."""

    def __init__(self, server: str, ca: str, headers: Mapping[str, str] | None = None) -> None:
        self._server = server
        self._ca = ca
        self._headers = {"accept": "application/json", "user-agent": "leasehold", **(headers or {})}
        self._client: httpx.AsyncClient | None = None

    async def ask(self, method: str, path: str, *, authorization: str = "", body: object = None) -> Answer:
        """The answer, whatever its status is; ``IssuerError`` when there is none."""
        return await self._sent(method, path, authorization, body, {})

    async def form(self, path: str, fields: Mapping[str, str], *, authorization: str, heard: bool = True) -> Answer:
        """The same for what is posted as a form is. ``heard``: false where the body of the answer means nothing."""
        return await self._sent("POST", path, authorization, None, fields, heard=heard)

    async def _sent(
        self, method: str, path: str, authorization: str, body: object, form: Mapping[str, str], *, heard: bool = True
    ) -> Answer:
        headers = {"authorization": authorization} if authorization else {}
        url = f"{self._server}{path}"
        for again in (True, False) if method in _IDEMPOTENT else (False,):
            try:
                return await self._once(method, url, headers, body, form, heard=heard)
            except (httpx.HTTPError, OSError) as e:
                if not (again and isinstance(e, _HUNG_UP)):
                    break
        # Behind the except blocks: the request that the original holds has the secret in it.
        raise IssuerError(UNREACHABLE, hint="look at its address in the parameters, and at ca")

    async def _once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: object,
        form: Mapping[str, str],
        *,
        heard: bool,
    ) -> Answer:
        if self._client is None:
            context = ssl.create_default_context(cafile=self._ca)
            self._client = httpx.AsyncClient(
                verify=context, trust_env=False, follow_redirects=False, timeout=_TIMEOUT, headers=self._headers
            )
        # Each request by itself: a cookie of one is of no concern to the next.
        self._client.cookies.clear()
        async with self._client.stream(method, url, headers=headers, json=body, data=form or None) as response:
            data = b""
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > BYTES_MAX:
                    break
            return read(response.status_code, data if heard else b"", response.headers.get("date", ""))

    async def close(self) -> None:
        """Close its connection; idempotent."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None
