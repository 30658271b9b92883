"""LaViDa's own training of stages 1 to 3: samples, batches and loss, equal to the official code.

SHIRG's adapter is trained by `shirg.training`, which uses none of this. See examples/official_loss.py.
"""
