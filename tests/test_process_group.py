"""Shutting down the process group."""

from __future__ import annotations

import torch.distributed as dist

from shirg.process_group import shut_down_process_group


def test_a_group_is_gone_after_the_shut_down(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    assert dist.is_initialized()
    shut_down_process_group()
    assert not dist.is_initialized()


def test_one_process_has_none_to_shut_down():
    shut_down_process_group()
    assert not dist.is_initialized()
