"""A reader of server-sent events: ``URL``. Prints ``HTTP status decision``, then events and their times."""

import sys
import time

import requests

start = time.monotonic()
with requests.get(sys.argv[1], stream=True, timeout=20) as response:
    print("HTTP", response.status_code, response.headers.get("x-leasehold-decision"))
    for line in response.iter_lines(chunk_size=None):
        if line:
            print(f"{time.monotonic() - start:.3f}", line.decode())
