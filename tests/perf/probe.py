"""How long /health takes, twenty times a second: python -m tests.perf.probe PORT. Milliseconds, a line each."""

from __future__ import annotations

import http.client
import sys
import time
from contextlib import closing

_PAUSE_S = 0.05


def main() -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)) as line:
        while True:
            began = time.perf_counter()
            line.request("GET", "/health")
            line.getresponse().read()
            print(f"{1000 * (time.perf_counter() - began):.3f}", flush=True)
            time.sleep(_PAUSE_S)


if __name__ == "__main__":
    main()
