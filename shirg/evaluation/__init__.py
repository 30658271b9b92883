"""Evaluation: how well, and at what cost, each way of showing a page to the model answers questions about it.

`SHIRGEvaluator` runs every vision path and token budget over the benchmarks, without and with an adapter, and writes
scores with intervals, timings, cache sizes, figures and a report.
"""
