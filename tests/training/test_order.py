"""Every record once per epoch, in an order that can be taken up anywhere."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from shirg.errors import UserError
from shirg.training.order import EpochOrder
from tests.training.helpers import Records, fake_records, loader


def order(**keywords) -> EpochOrder:
    place = {key: keywords.pop(key) for key in ("rank", "processes", "seed") if key in keywords}
    return EpochOrder(loader(list(range(11)), **keywords), name="train_loader", **{"seed": 0, **place})


def flat(batches) -> list:
    return [record for batch in batches for record in batch]


def test_each_epoch_is_another_permutation_of_all_records():
    epochs = [flat(order().batches(epoch)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert flat(order(seed=1).batches(0)) != epochs[0]


def test_order_ignores_and_spares_the_global_generator():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = list(order().batches(0))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert list(order().batches(0)) == first


def test_skipping_goes_on_where_the_whole_epoch_would():
    whole = list(order().batches(2))
    assert list(order().batches(2, skip=2)) == whole[2:]


def test_processes_share_the_epoch_evenly_and_completely():
    whole = list(order().batches(1))
    parts = [list(order(rank=rank, processes=4).batches(1)) for rank in range(4)]
    assert [len(part) for part in parts] == [2] * 4 == [len(order(processes=4))] * 4
    assert sorted(flat(flat(parts))) == list(range(11))
    assert [part[0] for part in parts] == whole[:4]
    assert parts[3][1] == []


class Epochs(list):
    """Records that say in which epoch they are read, as an augmenting data set does."""

    epoch = None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        return self.epoch, super().__getitem__(index)


def test_the_data_set_is_told_the_epoch():
    epochs = EpochOrder(loader(Epochs([1, 2, 3])), name="train_loader", seed=0)
    assert {epoch for epoch, _ in flat(epochs.batches(2))} == {2}


def test_unshuffled_loaders_and_dropped_remainders_are_respected():
    assert flat(order(shuffle=False).batches(3)) == list(range(11))
    assert [len(batch) for batch in order(drop_last=True, batch_size=4).batches(0)] == [4, 4]


def test_images_are_dealt_whole_and_in_another_order_each_epoch():
    records = Records(fake_records(12, images=4))
    order = EpochOrder(loader(records, batch_size=3), name="train_loader", seed=0, by_image=True)
    epochs = [list(order.batches(epoch)) for epoch in range(3)]
    for batches in epochs:
        assert sorted(record.id for record in flat(batches)) == sorted(record.id for record in records)
        assert all(len({record.image_id for record in batch}) == 1 for batch in batches)
    assert len({tuple(batch[0].image_id for batch in batches) for batches in epochs}) > 1
    with pytest.raises(UserError, match="list, which has no image_ids"):
        EpochOrder(loader([1, 2]), name="train_loader", seed=0, by_image=True)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize(
    ("bad", "message"),
    [([[1]], "got list"), (DataLoader(Stream(), batch_size=2), "got Stream"), (loader([], shuffle=False), "0 records")],
)
def test_loaders_that_cannot_be_taken_up_again_are_refused(bad, message):
    with pytest.raises(UserError, match=f"val_loader: .*{message}|val_loader: {message}"):
        EpochOrder(bad, name="val_loader", seed=0)
