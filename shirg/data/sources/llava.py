"""LLaVA's format, and LLaVA-Pretrain LCS-558K, the base part of training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from shirg.data.sources.base import Collector, Draft, LocalSource, iter_json_lines, iter_json_list
from shirg.data.sources.values import answer, conversation, image_name, is_missing, question


class LlavaJson(LocalSource):
    """Reads one file, `.json` (a list) or `.jsonl`, of entries `{"id", "image", "conversations"}`.

    ShareGPT's and OpenAI's formats are read too, see `shirg.data.sources.values.conversation`. Image names are relative
    to the file's folder, or to `images/` in it if that exists. Each human turn with its answer becomes one record. The
    source is named after the file.
    """

    name = "llava_json"
    licence = "as its publisher states (not in the file)"
    layout = "any NAME.json or NAME.jsonl in LLaVA's format, images beside it or in images/; named by --base-json, --ocr-json"
    folders: tuple[str, ...] = ()
    size = "any"
    home = "e.g. huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K (llava_v1_5_mix665k.json)"

    def __init__(self, file: Path):
        super().__init__(file.parent)
        self.file_path = file
        self.name = re.sub(r"[^a-z0-9_.-]", "_", file.stem.lower())

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        return False  # the file has to be named

    def read(self, split: str, collector: Collector) -> None:
        """Entries in file order, read piece by piece. Entries without an image are rejected."""
        images = self.folder / "images" if (self.folder / "images").is_dir() else self.folder
        for entry in collector.objects(self._entries(collector)):
            item = next((entry[name] for name in ("image", "images", "id") if not is_missing(entry.get(name))), None)
            with collector.listing(item):
                image, pairs = conversation(entry)
                with collector.listing(item, len(pairs)):
                    name = image_name(image)
                    for human, assistant in pairs:
                        with collector.listing(name):
                            collector.add(images, name, Draft(question(human), (answer(assistant),)))

    def _entries(self, collector: Collector) -> Iterator[object]:
        lines = self.file_path.suffix.lower() == ".jsonl"
        return iter_json_lines(self.file_path, collector) if lines else iter_json_list(self.file_path)


class LlavaPretrain(LlavaJson):
    """Reads `blip_laion_cc_sbu_558k.json` and the image folders `00000/` ... beside it or in `images/`."""

    name = "llava_pretrain"
    licence = "as LAION, CC and SBU (captions: BSD-3-Clause, from BLIP)"
    layout = "blip_laion_cc_sbu_558k.json, image folders 00000/ ... (or images/00000/ ...)"
    folders = ("llava_pretrain", "llava-pretrain", "lcs-558k", "lcs558k", "lcs_558k")
    size = "558,128 images with a caption each; json 181 MB, images.zip 27.4 GB"
    home = "huggingface.co/datasets/liuhaotian/LLaVA-Pretrain (the json and images.zip)"
    file = "blip_laion_cc_sbu_558k.json"

    def __init__(self, folder: Path):
        super().__init__(folder / self.file)
        self.name = LlavaPretrain.name

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        return split == "train" and (folder / cls.file).is_file()
