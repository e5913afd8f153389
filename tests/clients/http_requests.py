"""requests: ``METHOD URL``. Prints ``HTTP status decision`` and the body."""

import sys

import requests

response = requests.request(sys.argv[1], sys.argv[2], timeout=20)
print("HTTP", response.status_code, response.headers.get("x-leasehold-decision"))
print(response.text)
