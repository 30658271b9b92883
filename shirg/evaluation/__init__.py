"""Evaluation: how well, and at what cost, each variant (vision path, budget, selector, adapter) answers questions about pages.

`SHIRGEvaluator` runs every vision path and token budget over the benchmarks, without and with an adapter, and writes
scores with intervals, timings, cache sizes, figures and a report.
"""
