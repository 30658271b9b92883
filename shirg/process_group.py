"""Shutting down the process group of a distributed run."""

from __future__ import annotations

import sys
import time

GRACE = 0.2
"""Seconds to wait after destroying the group. Without a pause three of eight runs of two processes were aborted, with
`time.sleep(0)` none of ten, since gloo's threads wait for Python's lock; the rest is a margin for busy machines."""


def shut_down_process_group() -> None:
    """Destroy the process group, if there is one. Call it when all work is done.

    gloo's threads free the tensors of the last collective after its caller has returned. A thread that does so while the
    interpreter exits aborts the process ("terminate called without an active exception"; pytorch issue 190489). Destroying the
    group joins these threads only if nothing else refers to the group, and torch's own default arguments
    (`torch.distributed.nn.functional`) and caches (DTensor's) do. torch has no call that waits for them, so this function
    sleeps.
    """
    distributed = sys.modules.get("torch.distributed")  # absent if torch was not imported
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(GRACE)
