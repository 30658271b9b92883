"""Train SHIRG's adapter.   python shirg/shirg_lora_training.py --help"""

if not __package__:  # run as a script, or this folder is on PYTHONPATH
    import _in_place  # noqa: F401

from shirg.cli.train import main

if __name__ == "__main__":  # --help needs no imports of a run
    main()

from shirg.training.config import SHIRGLoRAConfig
from shirg.training.trainer import SHIRGLoRATrainer

__all__ = ["SHIRGLoRAConfig", "SHIRGLoRATrainer", "main"]
