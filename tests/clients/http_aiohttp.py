"""aiohttp: ``METHOD URL``. Prints ``HTTP status decision`` and the body."""

import asyncio
import sys

import aiohttp


async def main() -> None:
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.request(*sys.argv[1:3]) as response:
        print("HTTP", response.status, response.headers.get("x-leasehold-decision"))
        print(await response.text())


try:
    asyncio.run(main())
except aiohttp.ClientConnectorError as error:
    print("FAILED", error)
