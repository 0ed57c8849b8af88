# SPDX-License-Identifier: MIT
"""A worker process, the other end of machine.Process: requests are lines of JSON on its standard
input, answers on its standard output. What peers.py and training_peers.py share."""

import importlib
import json
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent


def trace(run, count, ours):
    """Seconds on the device by CUPTI: first kernel of a run to its last ("span"), with the copies
    around them ("span_copies"); of libser also microseconds by op."""
    import kernels

    try:
        import torch  # noqa: F401
    except ImportError as error:
        return {"why": reason(error)}
    found = kernels.record(run, count)
    if found is None:
        return {"why": "PyTorch's profiler sees no CUDA"}
    own = [[a for a in one if not kernels.is_copy(a.name)] for one in found]
    answer = {"span": kernels.spans(own), "span_copies": kernels.spans(found)}
    return {**answer, "ops": kernels.op_times(found)} if ours else answer


def reason(error):
    """One line."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:300]


def work(task, say, kind):
    try:
        worker = kind(task)
        say({"ready": worker.ready})
    except Exception as error:  # the other end reports it
        say({"error": reason(error)})
        raise
    for line in sys.stdin:
        request = json.loads(line)
        try:
            say(getattr(worker, request.pop("do"))(**request))
        except Exception as error:
            say({"error": reason(error)})


def main(kind, others):
    """`kind` of worker, and the module of what else there is to do."""
    task = json.loads(sys.argv[1])
    # Libraries print: what they say goes to standard error.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer):
        print(json.dumps(answer), file=channel, flush=True)

    sys.path.insert(0, str(HERE))
    if task["do"] == "work":
        work(task, say, kind)
    else:
        getattr(importlib.import_module(others), task["do"])(task, say)
