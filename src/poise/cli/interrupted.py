"""An interrupt on its way to the user."""


class Interrupted(Exception):
    """Ctrl-C in a command that knows how to go on; the message says so."""
