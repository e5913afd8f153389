"""httpx: ``VERSION METHOD URL``, version 1.1 or 2. Prints ``HTTP status decision``, the version, the body."""

import sys

import httpx

with httpx.Client(http2=sys.argv[1] == "2", timeout=20) as client:
    response = client.request(sys.argv[2], sys.argv[3])
print("HTTP", response.status_code, response.headers.get("x-leasehold-decision"))
print(response.http_version)
print(response.text)
