"""Evaluate every vision path and budget.   python shirg/shirg_evaluation.py --help"""

if not __package__:  # run as a script, or this folder is on PYTHONPATH
    import _in_place  # noqa: F401

from shirg.cli.evaluate import main

if __name__ == "__main__":  # --help need not wait for what a run imports
    main()

from shirg.evaluation.evaluator import SHIRGEvaluationConfig, SHIRGEvaluator

__all__ = ["SHIRGEvaluationConfig", "SHIRGEvaluator", "main"]
