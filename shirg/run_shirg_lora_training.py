"""Prepare, train, evaluate and report.   python shirg/run_shirg_lora_training.py --output-dir ./shirg_lora_output"""

if not __package__:  # run as a script, or this folder is on PYTHONPATH
    import _in_place  # noqa: F401

from shirg.cli.run import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
