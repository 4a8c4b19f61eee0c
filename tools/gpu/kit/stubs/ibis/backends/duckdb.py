"""Stand-in, see anything.py."""

from anything import __getattr__ as __getattr__


class Backend:
    """Stands for the backend of a type hint."""
