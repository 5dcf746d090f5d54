from __future__ import annotations

import multiprocessing

import pytest


@pytest.fixture(scope="session")
def fork():
    """Start source text in a process of its own that has torch imported already; returns the process.

    `fork(source, names, **environment)`: `names` are the globals of the source. Its exit code is the process's.
    """
    server = multiprocessing.get_context("forkserver")
    # torch.optim imports torch._dynamo at the first optimizer: seconds, paid once here
    server.set_forkserver_preload(["accelerate", "torch._dynamo", "sextet.training"])

    def start(source, names=(), **environment):
        preamble = f"import os\nos.environ.update({environment!r})\nimport torch\ntorch.set_num_threads(1)\n"
        # as a program would have it; pytest's own handlers must not come along
        preamble += "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        process = server.Process(target=exec, args=(preamble + source, {"__name__": "__main__", **dict(names)}))
        process.start()
        return process

    return start
