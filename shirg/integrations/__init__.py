"""SHIRG in other code bases: the official LaViDa and lmms-eval."""
