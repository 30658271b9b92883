"""The end of processes that computed together."""

from __future__ import annotations

import sys
import time

GRACE = 0.2
"""Seconds. Without a pause three of eight runs of two processes were aborted, with one of no length none of ten: it is Python's
lock that gloo's threads wait for. The rest is for busy machines."""


def shut_down_process_group() -> None:
    """Shut the process group down, where there is one; to be called when all work is done.

    gloo's threads drop the tensors of the last collective after it has returned. One that does so while the interpreter
    ends is stopped in the middle of a destructor, and the process is aborted after all its work ("terminate called without an
    active exception"; pytorch issue 190489). Destroying the group joins these threads only where nobody else holds the group,
    and torch's own default arguments (`torch.distributed.nn.functional`) and caches (DTensor's) do. There is no call that
    waits for them, hence a moment for them to end in.
    """
    distributed = sys.modules.get("torch.distributed")  # absent where nothing has computed
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(GRACE)
