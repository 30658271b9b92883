"""LLaVA-Pretrain LCS-558K: captioned web images, the base part of training."""

from __future__ import annotations

from pathlib import Path

from shirg.data.records import IMAGE_PLACEHOLDER
from shirg.data.sources.base import Collector, Index, LocalSource, fields, read_json_list


class LlavaPretrain(LocalSource):
    """Reads `blip_laion_cc_sbu_558k.json` and the image folders `00000/` ... beside it or in `images/`.

    Every pair of a human turn and the answer to it becomes one record; the set has one per image.
    """

    name = "llava_pretrain"
    licence = "as LAION, CC and SBU (captions: BSD-3-Clause, from BLIP)"
    layout = "blip_laion_cc_sbu_558k.json, image folders 00000/ ... (or images/00000/ ...)"
    folders = ("llava_pretrain", "llava-pretrain", "lcs-558k", "lcs558k", "lcs_558k")
    file = "blip_laion_cc_sbu_558k.json"

    @classmethod
    def fits(cls, folder: Path, split: str) -> bool:
        """Whether the json file is there; the set has a training part only."""
        return split == "train" and (folder / cls.file).is_file()

    def index(self, split: str = "train") -> Index:
        """Entries `{"id", "image", "conversations"}`."""
        images = self.folder / "images" if (self.folder / "images").is_dir() else self.folder
        collector = Collector(self.name, self.licence, self.folder)
        for entry in map(fields, read_json_list(self.folder / self.file)):
            turns = question_answer_turns(entry.get("conversations"))
            if not turns:
                collector.reject(str(entry.get("image") or entry.get("id") or "entry"), "no question with an answer")
            for question, answer in turns:
                collector.add(images, entry.get("image"), question, answer)
        return collector.index()


def question_answer_turns(conversations: object) -> list[tuple[str, str]]:
    """(question, answer) for every human turn that is followed by an answer, without the image placeholder."""
    turns = [fields(turn) for turn in conversations] if isinstance(conversations, list) else []
    pairs = []
    for asked, told in zip(turns, turns[1:], strict=False):
        if asked.get("from") == "human" and told.get("from") == "gpt":
            question = str(asked.get("value") or "").replace(IMAGE_PLACEHOLDER, " ").strip()
            pairs.append((question, str(told.get("value") or "").strip()))
    return pairs
