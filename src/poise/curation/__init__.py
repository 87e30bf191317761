"""Data by what a model doubts: which pairs to keep, mend or show to people, and which to have labelled next."""
