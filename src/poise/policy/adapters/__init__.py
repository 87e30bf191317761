"""The reward function in the shapes that other frameworks call: one file each, none of which imports its framework.

They call with one sample at a time, from many threads or coroutines: ``together.py`` scores what has gathered as one batch.
"""
