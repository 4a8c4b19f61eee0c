"""``cadc-rec`` and ``python -m cadc_rec``: the command line, or why there is none."""

import sys


def main() -> None:
    """Start the command line; a missing library is named, without a traceback."""
    try:
        from cadc_rec.cli.main import main as start
    except ImportError as error:
        sys.exit(f"error: the installation is not whole ({error}); run `make install` again.")
    start()


if __name__ == "__main__":
    main()
