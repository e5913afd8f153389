"""A process that appends to an audit log until it is refused, and says each number once it is acknowledged.

Arguments: the folder, and how many records go into one batch. After a refusal it removes the file ``filler`` beside the
folder, appends once more and says what verification found.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome
from leasehold.core.errors import AuditError
from leasehold.core.secret import Secret

KEY = Secret(b"k" * 32)


def main() -> None:
    """Run until refused or killed."""
    folder, batch = Path(sys.argv[1]), int(sys.argv[2])
    log = AuditLog(folder, KEY, clock=time.time)
    row = {"event": Event.SECRET_SET, "outcome": Outcome.DONE, "name": "x" * 900}
    acknowledged = 0
    try:
        while True:
            acknowledged = log.append_many([row] * batch)[-1].seq
            print(acknowledged, flush=True)
    except AuditError as e:
        print(f"refused: {e.message}", flush=True)
    if log.verify().records != acknowledged:
        print("refused, but something was kept", flush=True)
    (folder.parent / "filler").unlink()
    print(log.append_many([row])[0].seq - acknowledged, log.verify().problem, flush=True)


if __name__ == "__main__":
    main()
