"""Keeps an embedded Redis alive for as long as its owner lives, and never longer.

Run as ``python -I -S guard.py COMMAND…`` with a pipe from the owner as standard input. The pipe
closes when the owner ends, however it ends: then the server is told to stop and is waited for. A
server that dies by itself is started again.
"""

import subprocess
import sys
import threading
import time

_STOP_LIMIT_S = 20.0


def main(command: list[str]) -> None:
    owner_gone = threading.Event()
    threading.Thread(target=_watch, args=(owner_gone,), daemon=True).start()
    while not owner_gone.is_set():
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)
        while server.poll() is None and not owner_gone.wait(0.1):
            pass
        if owner_gone.is_set():
            _stop(server)
        else:
            time.sleep(0.1)


def _watch(owner_gone: threading.Event) -> None:
    while sys.stdin.buffer.read(1):
        pass
    owner_gone.set()


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
