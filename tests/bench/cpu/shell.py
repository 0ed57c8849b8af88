# SPDX-License-Identifier: MIT
"""Time a command as a shell starts it: shell.py COUNT COMMAND… prints [[seconds, …], peak bytes].

A process of its own and small, run with -I -S: a child's peak memory counts what its parent had
when it was forked.
"""

import json
import os
import subprocess
import sys
import time


def main():
    count, command = int(sys.argv[1]), sys.argv[2:]
    times, memory = [], 0
    for n in range(count + 1):  # the first is a warm-up
        begin = time.perf_counter()
        process = subprocess.Popen(
            ["sh", "-c", 'exec "$0" "$@"', *command], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)}: exit {process.returncode}")
        if n > 0:
            times.append(took)
            memory = max(memory, usage.ru_maxrss * 1024)
        time.sleep(0.1)
    print(json.dumps([times, memory]))


if __name__ == "__main__":
    main()
