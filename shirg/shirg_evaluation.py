"""Evaluate every vision path and budget.   python shirg/shirg_evaluation.py --help"""

if not __package__:  # run as a script, or this folder is on PYTHONPATH
    import _in_place  # noqa: F401

from shirg.cli.evaluate import main

if __name__ == "__main__":  # --help needs no imports of a run
    main()

from shirg.evaluation.evaluator import SHIRGEvaluationConfig, SHIRGEvaluator

__all__ = ["SHIRGEvaluationConfig", "SHIRGEvaluator", "main"]
