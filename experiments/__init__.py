"""Studies of the methods: ``python -m experiments`` measures the papers' claims; other files are run by name."""
