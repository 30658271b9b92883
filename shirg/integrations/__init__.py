"""SHIRG inside code bases that are not ours."""
