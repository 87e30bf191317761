"""``poise serve``: reward models over HTTP, with everything they believe and not just a number.

A request is read (``schema.py``, ``rendered.py``), becomes jobs of one model (``hosting.py``), waits with others and is scored
with them (``batching.py``), is answered (``native.py``, ``compatibility.py``); ``gate.py`` stands before all of it.
"""
