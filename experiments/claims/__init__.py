"""The papers' claims, a file per family of studies; run with ``python -m experiments``."""
