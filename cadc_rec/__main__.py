"""``python -m cadc_rec``: the same as the ``cadc-rec`` command; what launchers start."""

from cadc_rec.cli import main

if __name__ == "__main__":
    main()
