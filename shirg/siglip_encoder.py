"""The vision tower under its promised name: `from shirg.siglip_encoder import SigLipVisionTower`."""

if not __package__:  # this folder is on PYTHONPATH
    import _in_place  # noqa: F401

from shirg.lavida.tower import SigLipVisionTower

__all__ = ["SigLipVisionTower"]
