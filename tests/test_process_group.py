"""Parting: whoever computed together lets go; whoever did not has nothing to do."""

from __future__ import annotations

import torch.distributed as dist

from shirg.process_group import part


def test_a_group_is_gone_after_parting(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    assert dist.is_initialized()
    part()
    assert not dist.is_initialized()


def test_one_process_parts_from_nobody():
    part()
    assert not dist.is_initialized()
