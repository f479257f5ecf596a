"""Commands that take codes to other programs and from them: export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hashfaiss.cli.app import DEFAULT_INDEX, IndexOption, app

BitOrderOption = Annotated[
    Literal["little", "big"] | None,
    typer.Option("--bit-order", help="Of the bits in a byte: little (as hashfaiss packs them) or big."),
]


@app.command()
def export(
    to: Annotated[
        Literal["parquet", "npz", "duckdb", "lance", "pgvector", "sqlite-vec", "usearch", "qdrant"],
        typer.Option("--to", help="Format."),
    ],
    out: Annotated[str, typer.Option("--out", help="File or folder to write, or the address of a database.")],
    index: IndexOption = DEFAULT_INDEX,
    bit_order: BitOrderOption = None,
    distinct: Annotated[
        bool, typer.Option("--distinct", help="Each code once, with all ids that have it: for a graph index.")
    ] = False,
    table: Annotated[
        str, typer.Option("--table", help="Name of the table or collection, in a format that has such.")
    ] = "codes",
) -> None:
    """Write an index's codes for a database or another program: packed codes, ids, paths and labels.

    The bit order is written into the metadata. Nothing is overwritten, and what is cut off leaves nothing. PostgreSQL
    is given as an address, and so may Qdrant be; all others are files (lance and qdrant: folders). Packages that a
    format needs are named where they are missing; docs/exchange.md has what a search looks like in each. A model is
    written by export-model. Examples:

    \b
        hashfaiss export --index photos.index --to parquet --out photos.parquet
        hashfaiss export --index photos.index --to duckdb --out photos.duckdb
        hashfaiss export --to pgvector --out postgresql://me@localhost/photos --distinct
    """
    from hashfaiss.cli.console import bar, note, say
    from hashfaiss.exchange import export as write
    from hashfaiss.library.image_index import ImageIndex
    from hashfaiss.wording import counted

    opened = ImageIndex.open(index)
    with bar("export") as progress:
        done = write(opened, to, out, bit_order, distinct, table, progress)
    if done.trouble:
        note(done.trouble)
    of = f" of {counted(done.images, 'image')}" if done.rows != done.images else ""
    say(f"{counted(done.rows, 'code')} of {opened.bits} bits{of} written for {to}")


@app.command("import")
def import_(
    codes: Annotated[Path, typer.Argument(help="Parquet, .npz or .npy file of packed codes.")],
    index: IndexOption = DEFAULT_INDEX,
    bits: Annotated[
        int | None, typer.Option("--bits", help="K; default: as the file says, or all bits of a code's bytes.")
    ] = None,
    bit_order: BitOrderOption = None,
    kind: Annotated[str, typer.Option("--kind", help="Of the FAISS index, as for build.")] = "auto",
) -> None:
    """Make an index of codes that come from elsewhere: it is asked with ids and codes, not with images.

    Parquet has the columns code (bytes, or lists of uint8) and, where there are such, id, path and labels; .npz the
    arrays codes (uint8, a row each), ids, paths and labels. Ids are kept; they ascend. Without any, they count from 0.
    Examples:

    \b
        hashfaiss import photos.parquet --index photos.index
        hashfaiss import codes.npy --bits 48 --bit-order big --index theirs.index
        hashfaiss query --id 7 --index theirs.index
    """
    from hashfaiss.cli.console import bar, say
    from hashfaiss.exchange import import_codes
    from hashfaiss.wording import counted

    with bar("import") as progress:
        made = import_codes(codes, index, bits, bit_order, kind, progress)
    say(f"{index}: {counted(len(made), 'code')} of {made.bits} bits")
