"""Commands that measure: bench train, encode, search, evaluate."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashfaiss.cli.app import DEFAULT_INDEX, DeviceOption, EngineOption, ImagesOption, IndexOption, JsonOption, app

if TYPE_CHECKING:
    from hashfaiss.bench.search import Row

bench_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure what this machine does, as ratios within one run. Example: hashfaiss bench train",
)
app.add_typer(bench_app, name="bench")


@bench_app.command("train")
def bench_train(
    method: Annotated[str, typer.Option("--method", help="See `hashfaiss methods`.")] = "dhida",
    backbone: Annotated[str, typer.Option(help="resnet18, alexnet or resnet-small.")] = "resnet18",
    bits: Annotated[int, typer.Option("--bits", help="Bits of a code.")] = 64,
    size: Annotated[int | None, typer.Option(help="Input side in pixels; default: the backbone's.")] = None,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 128,
    batches: Annotated[int, typer.Option(help="Steps a round.")] = 4,
    rounds: Annotated[int, typer.Option(help="Rounds of the trainer and of the bare network, in turn.")] = 5,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare the trainer with the bare network: forward, backward and step on batches that are ready.

    Example:

        hashfaiss bench train --size 64
    """
    settings = {name: value for name, value in locals().items() if name != "as_json"}
    from hashfaiss.bench.training import bench_training
    from hashfaiss.cli.console import bar, print_json, print_table

    with bar("rounds") as progress:
        result = bench_training(**settings, progress=progress)
    if as_json:
        print_json(result.to_dict())
        return
    pairs = list(zip(result.trainer, result.bare, strict=True))
    rows = [(str(n), f"{ours:,.1f}", f"{bare:,.1f}", f"{ours / bare:.3f}") for n, (ours, bare) in enumerate(pairs, 1)]
    rows.append(("median", "", "", f"{result.ratio:.3f}"))
    network = f"{result.method}, {result.backbone} at {result.size} px, batches of {result.batch}"
    title = f"{network}, {result.precision} on {result.device}"
    print_table(("round", "trainer images/s", "bare images/s", "ratio"), rows, title)


@bench_app.command("encode")
def bench_encode(
    model: Annotated[Path, typer.Option("--model", help="Model file of `hashfaiss train`.")],
    images: ImagesOption,
    count: Annotated[
        int, typer.Option("--count", help="Images of a round, 40 or more; up to 10,000 are compared bit by bit.")
    ] = 2000,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    engine: EngineOption = "auto",
    plain: Annotated[bool, typer.Option(help="The script everyone writes too; wants a folder a class.")] = True,
    memory: Annotated[
        list[int] | None, typer.Option("--memory", help="Also the peak memory of so many images; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare encoding with decoding alone, the network alone, and the plain script, in one run.

    Also counts the bits that differ from float32's, and times one image, and a first query in a new process. Example:

        hashfaiss bench encode --model dhida.pt --images photos/
    """
    from hashfaiss.bench.encoding import bench_encoding
    from hashfaiss.cli.console import note, print_json, print_table

    found = bench_encoding(model, images, count, device, precision, plain, memory or (), note, engine)
    if as_json:
        print_json(found.to_dict())
        return
    computed = f"{found.precision} by {found.engine} on {found.device}"
    title = f"{found.images:,} images at {found.size} px, {found.bits} bits, {computed}"
    rows = [
        ("decode alone", found.decode),
        ("network alone", found.network),
        ("network alone, torch float32", found.float32),
        *((f"network alone, {name}", rate) for name, rate in found.engines.items()),
        *found.itself.items(),
        ("pipeline, files to codes", found.pipeline),
        *([("files to codes by onnxruntime", found.onnxruntime)] if found.onnxruntime else []),
        *([("the plain script", found.plain)] if found.plain else []),
    ]
    print_table(("", "images/s"), [(name, f"{rate:,.1f}") for name, rate in rows], f"{title}, {found.workers} workers")
    largest = f", the largest output {found.largest_flipped:.4f} of its image's size" if found.flipped else ""
    told = [
        ("pipeline / the slower of decode and network", f"{found.bound_ratio:.3f}"),
        *(
            [("pipeline / the slower of decode and OpenVINO", f"{found.engine_ratio:.3f}")]
            if found.engine_ratio
            else []
        ),
        ("pipeline / both on the same cores", f"{found.shared_ratio:.3f}"),
        *([("pipeline / the plain script", f"{found.plain_ratio:.2f}")] if found.plain_ratio else []),
        ("images left to float32", f"{100 * found.again:.1f} %"),
        ("bits that differ from float32's", f"{found.flipped:,} of {found.compared:,}{largest}"),
        ("one image, warm / decode and forward", f"{found.alone:.2f} ms / {found.bare:.2f} ms"),
        ("cold query / importing torch + loading", f"{found.cold:.2f} s / {found.torch_import + found.load:.2f} s"),
        *((f"peak memory, {count:,} images", f"{peak:,.0f} MB") for count, peak in found.memory.items()),
    ]
    print_table(("", "measured"), told)


@bench_app.command("search")
def bench_search(
    size: Annotated[list[int] | None, typer.Option("--size", help="Codes; may be repeated. [default: 1000000]")] = None,
    flip: Annotated[
        list[float] | None,
        typer.Option("--flip", help="Share of bits that leave their centre, 0.5 is random. [default: 0.05, 0.15, 0.5]"),
    ] = None,
    index: Annotated[
        list[Path] | None, typer.Option("--index", help="Search the learned codes of this index; may be repeated.")
    ] = None,
    peers: Annotated[bool, typer.Option(help="usearch and LanceDB too, where they are installed.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Compare search through hashfaiss with FAISS as it is, on the same codes and one thread.

    Ratios are to FAISS's flat index over all codes, in batch, k = 10. Examples:

    \b
        uv run --with usearch --with lancedb hashfaiss bench search
        hashfaiss bench search --size 10000000 --flip 0.05 --no-peers
    """
    from hashfaiss.bench.codes import drawn, learned
    from hashfaiss.bench.peers import missing
    from hashfaiss.bench.search import bench_search as bench
    from hashfaiss.cli.console import note, print_json, print_table, say

    sizes, flips = (size or [1_000_000], flip or [0.05, 0.15, 0.5]) if size or flip or not index else ([], [])
    cases = chain(map(learned, index or []), (drawn(n, p) for n in sizes for p in flips))
    for number, case in enumerate(cases):
        if not number and peers and missing():  # not before: what was asked for may be wrong
            note(f"not installed: {', '.join(missing())}; to compare, run with `uv run --with usearch --with lancedb`")
        found = bench(case, peers, note)
        if as_json:
            print_json(found.to_dict())
            continue
        title = f"{found.case}, {found.distinct:,} distinct; flat: {found.flat_rate:,.0f} queries/s"
        print_table(("search", "x flat", "recall", "certified", "bytes a code", "built in"), _ways(found.rows), title)
        pairs = [("one query, p50", found.single, "us"), ("build", found.build, "s"), ("load", found.load, "s")]
        rows = [
            (kind, what, f"{theirs:,.4g} {unit}", f"{ours:,.4g} {unit}")
            for what, values, unit in pairs
            for kind, (theirs, ours) in values.items()
        ]
        print_table(("kind", "", "FAISS alone", "hashfaiss"), rows)
        say()


def _ways(rows: list[Row]) -> list[tuple[str, ...]]:
    return [
        (
            row.name,
            f"{row.ratio:,.2f}",
            f"{row.recall:.4f}",
            "-" if row.certified is None else f"{100 * row.certified:.1f} %",
            "-" if row.bytes_per_code is None else f"{row.bytes_per_code:.1f}",
            "-" if row.build_seconds is None else f"{row.build_seconds:.1f} s",
        )
        for row in rows
    ]


@bench_app.command("evaluate")
def bench_evaluate(
    queries: Annotated[int, typer.Option(help="Queries.")] = 1000,
    items: Annotated[int, typer.Option(help="Codes that are ranked.")] = 54_000,
    bits: Annotated[int, typer.Option(help="Bits of a code.")] = 64,
    as_json: JsonOption = False,
) -> None:
    """Compare exact evaluation with the per-query script that the field's repositories share.

    Example:

        hashfaiss bench evaluate
    """
    from hashfaiss.bench.evaluation import bench_evaluation
    from hashfaiss.cli.console import print_json, print_table

    found = bench_evaluation(queries, items, bits)
    if as_json:
        print_json(found.to_dict())
        return
    rows = [
        ("the popular script: mAP in the order of its sort", f"{found.script:.3f} s", "1.0", f"{found.script_map:.4f}"),
        (
            "tie-aware mAP with bounds, P@N, R@N, PR",
            f"{found.ours:.3f} s",
            f"{found.ratio:.1f}",
            f"{found.our_map:.4f}",
        ),
        ("and mAP in order of id", f"{found.ours_by_id:.3f} s", f"{found.ratio_by_id:.1f}", f"{found.our_map:.4f}"),
    ]
    if found.gpu is not None:
        rows.append(
            ("counted on a GPU", f"{found.gpu:.3f} s", f"{found.script / found.gpu:.1f}", f"{found.our_map:.4f}")
        )
    title = f"{queries:,} queries, {items:,} codes of {bits} bits; peak {found.peak_megabytes:.0f} MB"
    print_table(("evaluation", "time", "times faster", "mAP"), rows, title)


@bench_app.command("serve")
def bench_serve(
    images: ImagesOption,
    index: IndexOption = DEFAULT_INDEX,
    clients: Annotated[
        list[int] | None, typer.Option("--clients", help="How many ask at once; may be repeated. [default: 1, 8, 64]")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="That each of them asks, in a round.")] = 5,
    rounds: Annotated[int, typer.Option("--rounds", help="Of the encoder alone and the service, in turn.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Compare searches with images over HTTP with encoding the same images alone, in one run.

    Serves the index in another process, over loopback. Example:

        hashfaiss bench serve --index photos.index --images photos/
    """
    from hashfaiss.bench.serving import bench_serving
    from hashfaiss.cli.console import bar, print_json, print_table

    with bar("rounds") as progress:
        found = bench_serving(index, images, clients or (1, 8, 64), seconds, rounds, progress)
    if as_json:
        print_json(found.to_dict())
        return
    rows = [("encoder alone", f"{found.encoder:,.1f}", "", "", "")]
    for load in found.loads:
        rate, p50, p99 = (f"{number:,.1f}" for number in (load.requests_per_second, load.p50_ms, load.p99_ms))
        rows.append((f"{load.clients} clients", rate, p50, p99, f"{load.ratio:.2f}"))
    title = f"{found.images:,} images, {found.bits} bits, medians of {rounds} rounds"
    print_table(("", "a second", "p50, ms", "p99, ms", "/ encoder"), rows, title)
