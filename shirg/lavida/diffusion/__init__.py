"""Masked diffusion over answer tokens: noise for training, step tables and denoising for generation."""

from shirg.lavida.diffusion.dream import DreamSettings, denoise_dream
from shirg.lavida.diffusion.generation import GenerationSettings, denoise
from shirg.lavida.diffusion.noise import NoisyCopies, complementary_copies, draw_noise, forward_process, sample_times
from shirg.lavida.diffusion.schedule import transfer_counts

__all__ = [
    "DreamSettings",
    "GenerationSettings",
    "NoisyCopies",
    "complementary_copies",
    "denoise",
    "denoise_dream",
    "draw_noise",
    "forward_process",
    "sample_times",
    "transfer_counts",
]
