"""Small records, loaders and runs for the tests of the trainer."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from torch.utils.data import DataLoader

from shirg.errors import UserError
from shirg.files import read_lines
from shirg.training import SHIRGLoRAConfig, SHIRGLoRATrainer
from tests.tiny import tiny_model, tiny_page

RESOLUTION = 112
GRID = 64


@dataclass
class FakeRecord:
    """What the trainer reads of a record."""

    id: str
    image_id: str
    question: str = "Total?"
    answers: tuple[str, ...] = ("12.50",)
    broken: bool = False

    def open_image(self):
        if self.broken:
            raise UserError(f"image of record {self.id}: cannot be read")
        return tiny_page(text=self.image_id)


def fake_records(count: int, images: int = 3) -> list[FakeRecord]:
    """Records that differ in question length and answer; several ask about one image."""
    return [
        FakeRecord(f"r{index}", f"page {index % images}", "Which " + "total " * (index % 3) + "?", (str(index * 7),))
        for index in range(count)
    ]


class Records(list):
    """Records that know their images, as a prepared folder does."""

    def image_ids(self) -> list[str]:
        return [record.image_id for record in self]


class Interrupting(list):
    """Records that press Ctrl-C, or send another signal, the `count`-th time one is read."""

    def __init__(self, records, count, number=signal.SIGINT):
        super().__init__(records)
        self.count = count
        self.number = number

    def __getitem__(self, index):
        self.count -= 1
        if self.count == 0:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(index)


def loader(records, batch_size: int = 2, shuffle: bool = True, **keywords) -> DataLoader:
    return DataLoader(records, batch_size=batch_size, shuffle=shuffle, collate_fn=list, **keywords)


def small_config(folder, **overrides) -> SHIRGLoRAConfig:
    """Two budgets, no pooled path, float32, no dropout: fast, and comparable to the bit."""
    settings = {
        "token_budgets": [8, 16],
        "include_pooled": False,
        "num_epochs": 1,
        "mixed_precision": "no",
        "lora_dropout": 0.0,
        "lora_rank": 4,
        "learning_rate": 1e-2,
        "max_answer_tokens": 6,
        "output_dir": str(folder),
    }
    return SHIRGLoRAConfig(**{**settings, **overrides})


def small_trainer(folder, *, family: str = "llada", **overrides) -> SHIRGLoRATrainer:
    model = tiny_model(family, shirg={"resolution": RESOLUTION})
    return SHIRGLoRATrainer(small_config(folder, **overrides), model)


def steps_of(trainer) -> list[dict]:
    """The lines of the run's `metrics.jsonl`."""
    return read_lines(trainer.folder / "logs" / "metrics.jsonl")


def losses_of(trainer) -> list[float]:
    return [entry["loss"] for entry in steps_of(trainer)]


def validations_of(trainer) -> list[dict]:
    """The lines of its `validation.jsonl`."""
    return read_lines(trainer.folder / "logs" / "validation.jsonl")
