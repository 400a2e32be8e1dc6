"""Writing a safetensors file tensor by tensor: the bytes of `safetensors.torch.save`, which first copies all tensors once more.

`save_file` makes none, but replaces the file by one of its own that its owner alone may read, and hides a full disk.
"""
import json
from collections.abc import Mapping
from typing import BinaryIO

import torch
from torch import Tensor

DTYPES = {  # in the order of the format's own list
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int32: "I32", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64",
}  # fmt: skip


def write_to(file: BinaryIO, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """tensors: on the CPU, contiguous; header: texts to keep beside them"""
    order = list(DTYPES)
    names = sorted(tensors, key=lambda name: (-order.index(tensors[name].dtype), name))
    content: dict[str, dict] = {"__metadata__": header}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        content[name] = {"dtype": DTYPES[tensors[name].dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        file.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
