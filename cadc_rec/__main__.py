"""``cadc-rec`` and ``python -m cadc_rec``: starts the command line, or says why it cannot."""

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
