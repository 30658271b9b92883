"""Try every component once, in under a minute.   python shirg/test_shirg_lora.py

This is a program for users; the project's tests are in tests/.
"""

if not __package__:  # run as a script, or this folder is on PYTHONPATH
    import _in_place  # noqa: F401

from shirg.cli.components import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
