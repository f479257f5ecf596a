"""What files of tensors say of their own sizes, looked at before a library takes memory for it.

torch's archives are zip files whose records torch.save does not compress; a `.safetensors` file begins with a header in
JSON. Either may say that it holds far more than it has bytes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from typing import Any, BinaryIO

from torch import Tensor

MOST_HEADER = (
    1 << 24
)  # bytes of a header in JSON, which takes twenty times as much in memory; a large model's has 10**5


def check_archive(file: BinaryIO, size: int) -> None:
    """ValueError where a torch file of `size` bytes is a zip that holds more than that; it is then to be read anew."""
    if file.read(2) == b"PK":
        file.seek(0)
        records = zipfile.ZipFile(file).infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("its records are compressed")
        if sum(record.file_size for record in records) > size:
            raise ValueError("its records are larger than it is")
    file.seek(0)


def check_header(file: BinaryIO) -> None:
    """ValueError where the header of a `.safetensors` file is longer than any model's."""
    if int.from_bytes(file.read(8), "little") > MOST_HEADER:
        raise ValueError(f"its header has more than {MOST_HEADER:,} bytes")


def check_tensors(tensors: Iterable[Any]) -> None:
    """ValueError where one of these tensors, if they are, has more values than were stored of it."""
    for value in tensors:
        if isinstance(value, Tensor) and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError("a tensor repeats what is stored of it")
