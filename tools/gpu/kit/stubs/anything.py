"""Stands in for a module whose names are imported and never used; see duckdb.py."""


class _Anything:
    def __getattr__(self, name):
        return self

    def __call__(self, *arguments, **named):
        return self


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything()
