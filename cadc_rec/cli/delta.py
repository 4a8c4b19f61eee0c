"""The command that makes the next bundle of the one that is there and a delta."""

from pathlib import Path
from typing import Annotated

import typer

from cadc_rec import strict_json
from cadc_rec.cli.options import AsJson, Debug


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(apply_delta)


def apply_delta(
    bundle: Annotated[
        Path,
        typer.Argument(help="Folder of the bundle that is there, or a link to it.",
                       metavar="BUNDLE", show_default=False),
    ],
    delta: Annotated[
        Path,
        typer.Argument(help="Folder of the delta.", metavar="DELTA", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the next bundle. Default: it takes the place of BUNDLE.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    verify_key: Annotated[
        Path | None,
        typer.Option(help="File with the public key that the next bundle must be signed with. "
                     "Default: $CADC_REC_VERIFY_KEY, else an unsigned one is accepted."),
    ] = None,
    json: AsJson = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Make the next bundle of the one that is there and a delta: the same bytes as the whole."""
    from cadc_rec.serving.bundle import delta as deltas
    from cadc_rec.serving.bundle.signing import verification_key

    opened = deltas.Delta.open(delta)
    made = deltas.apply_delta(bundle, opened, out, verification_key(verify_key))
    if json:
        document = {
            "bundle": str(made.path.resolve()),
            "fingerprint": made.fingerprint,
            "changes": opened.manifest["changes"],
        }
        print(strict_json.dumps(document))
        return
    for side in ("users", "items"):
        changed = opened.manifest["changes"][side]
        print(
            f"{side}: {changed['new']:,} new, {changed['removed']:,} removed, "
            f"{changed['vectors_changed']:,} of {changed['rows']:,} vectors changed"
        )
    print(f"{made.name} ({made.fingerprint[:12]})")
    print(made.path.resolve())
