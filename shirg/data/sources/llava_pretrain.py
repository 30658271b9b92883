"""LLaVA-Pretrain LCS-558K: captioned web images, the base part of training."""

from __future__ import annotations

from pathlib import Path

from shirg.data.sources.llava_json import LlavaJson


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
        """Whether the json file is there; the set has a training part only."""
        return split == "train" and (folder / cls.file).is_file()
