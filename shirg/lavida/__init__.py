"""LaViDa: image -> views -> tokens -> kept tokens -> embeddings -> prefix -> cache -> answer."""

from shirg.lavida.config import LavidaConfig
from shirg.lavida.language import LanguageModel, PrefixCache
from shirg.lavida.model import Lavida
from shirg.lavida.tower import SigLipVisionTower
from shirg.lavida.vision import MODES, VisionFeatures

__all__ = ["MODES", "LanguageModel", "Lavida", "LavidaConfig", "PrefixCache", "SigLipVisionTower", "VisionFeatures"]
