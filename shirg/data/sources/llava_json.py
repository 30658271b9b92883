"""LLaVA's own form: a json list of images with conversations, under any name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from shirg.data.sources.base import Collector, Draft, LocalSource, iter_json_lines, iter_json_list
from shirg.data.sources.values import answer, conversation, image_name, is_missing, question


class LlavaJson(LocalSource):
    """Reads one file, `.json` (a list) or `.jsonl`, of entries `{"id", "image", "conversations"}`.

    The forms of ShareGPT's and OpenAI's tools are read as well, see `shirg.data.sources.values.conversation`.
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
        for entry in collector.objects(self._entries(collector)):
            item = next((entry[name] for name in ("image", "images", "id") if not is_missing(entry.get(name))), None)
            with collector.listing(item):
                image, pairs = conversation(entry)
                with collector.listing(item, len(pairs)):
                    name = image_name(image)
                    for asked, told in pairs:
                        with collector.listing(name):
                            collector.add(images, name, Draft(question(asked), (answer(told),)))

    def _entries(self, collector: Collector) -> Iterator[object]:
        lines = self.file_path.suffix.lower() == ".jsonl"
        return iter_json_lines(self.file_path, collector) if lines else iter_json_list(self.file_path)
