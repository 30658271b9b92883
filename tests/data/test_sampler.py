"""Every record once per epoch, in an order that can be taken up anywhere."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from shirg.data.sampler import EpochOrder, _whole_batches_first
from shirg.errors import UserError


def loader(records, batch_size: int = 2, shuffle: bool = True, **keywords) -> DataLoader:
    return DataLoader(records, batch_size=batch_size, shuffle=shuffle, collate_fn=list, **keywords)


def order(length: int = 11, **keywords) -> EpochOrder:
    place = {key: keywords.pop(key) for key in ("rank", "processes", "seed") if key in keywords}
    return EpochOrder(loader(list(range(length)), **keywords), **{"seed": 0, **place})


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


places = st.fixed_dictionaries(
    {"length": st.integers(1, 60), "batch_size": st.integers(1, 9), "processes": st.integers(1, 5)}
)


@given(places, st.integers(0, 9), st.data())
def test_skipping_goes_on_where_the_whole_epoch_would(place: dict[str, int], epoch: int, data: st.DataObject):
    mine = order(**place, rank=data.draw(st.integers(0, place["processes"] - 1)))
    whole = mine.indices(epoch)
    skip = data.draw(st.integers(0, len(whole)))
    assert mine.indices(epoch, skip) == whole[skip:]
    assert list(mine.batches(epoch, skip)) == whole[skip:]


@given(places, st.integers(0, 9))
def test_processes_share_the_epoch_evenly_and_completely(place: dict[str, int], epoch: int):
    """Every record on one process only, as many batches on each, and dealt back together the order of one process."""
    shares = [order(**place, rank=rank) for rank in range(place["processes"])]
    parts = [share.indices(epoch) for share in shares]
    assert {len(part) for part in parts} == {len(share) for share in shares} and len({*map(len, parts)}) == 1
    together = [batch for turn in zip(*parts, strict=True) for batch in turn if batch]
    assert together == order(place["length"], batch_size=place["batch_size"]).indices(epoch)
    assert sorted(flat(together)) == list(range(place["length"]))


def test_a_place_outside_the_processes_is_refused():
    with pytest.raises(UserError, match=r"rank: 2; from 0 to below processes \(2\)"):
        order(rank=2, processes=2)


class Epochs(list):
    """Records that say in which epoch they are read, as an augmenting data set does."""

    epoch = None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        return self.epoch, super().__getitem__(index)


def test_the_data_set_is_told_the_epoch():
    epochs = EpochOrder(loader(Epochs([1, 2, 3])), seed=0)
    assert {epoch for epoch, _ in flat(epochs.batches(2))} == {2}


def test_unshuffled_loaders_and_dropped_remainders_are_respected():
    assert flat(order(shuffle=False).batches(3)) == list(range(11))
    assert [len(batch) for batch in order(drop_last=True, batch_size=4).batches(0)] == [4, 4]


class Images(list):
    """Numbers of records, four images by turns."""

    def image_ids(self) -> list[str]:
        return [f"image {number % 4}" for number in self]


def test_images_are_dealt_whole_and_in_another_order_each_epoch():
    order = EpochOrder(loader(Images(range(12)), batch_size=3), seed=0, by_image=True)
    epochs = [list(order.batches(epoch)) for epoch in range(3)]
    for batches in epochs:
        assert sorted(flat(batches)) == list(range(12))
        assert all(len({record % 4 for record in batch}) == 1 for batch in batches)
    assert len({tuple(batch[0] % 4 for batch in batches) for batches in epochs}) > 1
    with pytest.raises(UserError, match="list, which has no image_ids"):
        EpochOrder(loader([1, 2]), seed=0, by_image=True)


def test_a_part_of_the_batches_is_spread_over_all():
    order = EpochOrder(loader(list(range(20)), shuffle=False), seed=0)
    assert order.batch_size == 2
    assert list(order.batches(0, most=4)) == [[0, 1], [4, 5], [10, 11], [14, 15]]
    assert len(list(order.batches(0, most=99))) == 10


def test_batches_are_of_one_image_as_far_as_there_are_so_many_questions_of_it():
    """Images of 5, 2, 4 and 3 records, batches of 2: whole pairs first, then what is left of two images together."""
    images = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9, 10], [11, 12, 13]]
    assert _whole_batches_first(images, 2) == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 4, 13]
    assert _whole_batches_first(images, 4) == [0, 1, 2, 3, 7, 8, 9, 10, 4, 5, 6, 11, 12, 13]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 8))
def test_no_record_is_lost_and_no_image_torn_needlessly(sizes, size):
    ends = list(itertools.accumulate(sizes))
    images = [list(range(end - count, end)) for end, count in zip(ends, sizes, strict=True)]
    order = _whole_batches_first(images, size)
    assert sorted(order) == list(range(ends[-1]))
    image_of = {record: number for number, records in enumerate(images) for record in records}
    whole = sum(
        len({image_of[record] for record in order[start : start + size]}) == 1 for start in range(0, len(order), size)
    )
    assert whole >= sum(count // size for count in sizes)


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
