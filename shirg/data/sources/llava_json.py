"""LLaVA's own form: a json list of images with conversations, under any name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from shirg.data.records import IMAGE_PLACEHOLDER
from shirg.data.sources.base import Collector, LocalSource, fields, iter_json_lines, iter_json_list


class LlavaJson(LocalSource):
    """Reads one file, `.json` (a list) or `.jsonl`, of entries `{"id", "image", "conversations"}`.

    Image names count from the file's folder, or from `images/` in it if that is there. Every pair of a human turn and
    the answer to it becomes one record. The source is called after the file; its licence is the user's to know.
    """

    name = "llava_json"
    licence = "as its publisher states (not in the file)"
    layout = (
        "any NAME.json or NAME.jsonl in LLaVA's form, images beside it or in images/; named by --base-json, --ocr-json"
    )
    folders: tuple[str, ...] = ()
    size = "any"
    home = "e.g. huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K (llava_v1_5_mix665k.json)"

    def __init__(self, file: Path):
        super().__init__(file.parent)
        self.file_path = file
        self.name = re.sub(r"[^a-z0-9_.-]", "_", file.stem.lower())

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Never by a folder: the file has to be named."""
        return False

    def read(self, split: str, collector: Collector) -> None:
        """Entries in the order of the file, a piece of it in memory at a time. Text without an image is listed."""
        images = self.folder / "images" if (self.folder / "images").is_dir() else self.folder
        for entry in map(fields, self._entries(collector)):
            turns = question_answer_turns(entry.get("conversations"))
            if not turns:
                collector.reject(_item(entry), "no question with an answer")
            for question, answer in turns:
                collector.add(images, entry.get("image"), question, answer)

    def _entries(self, collector: Collector) -> Iterator[object]:
        lines = self.file_path.suffix.lower() == ".jsonl"
        return iter_json_lines(self.file_path, collector) if lines else iter_json_list(self.file_path)


def question_answer_turns(conversations: object) -> list[tuple[str, str]]:
    """(question, answer) for every human turn that is followed by an answer, without the image placeholder."""
    turns = [fields(turn) for turn in conversations] if isinstance(conversations, list) else []
    pairs = []
    for asked, told in zip(turns, turns[1:], strict=False):
        if asked.get("from") == "human" and told.get("from") == "gpt":
            question = str(asked.get("value") or "").replace(IMAGE_PLACEHOLDER, " ").strip()
            pairs.append((question, str(told.get("value") or "").strip()))
    return pairs


def _item(entry: dict[str, object]) -> str:
    return str(entry.get("image") or entry.get("id") or "entry").encode(errors="replace").decode()
