"""Stand-in, see anything.py."""

from anything import __getattr__ as __getattr__
