"""A file written tensor by tensor has the bytes that the safetensors library writes."""
import io

import torch
from safetensors.torch import save

from core.safetensors_file import DTYPES, write_to


def test_the_bytes_are_the_librarys():
    generator = torch.Generator().manual_seed(0)
    shapes = [(), (0, 3), (5,), (2, 3, 4)]
    tensors = {
        f"{'ab'[i % 2]}.{dtype}.{i}": (9 * torch.rand(shape, generator=generator)).to(dtype)
        for dtype in DTYPES for i, shape in enumerate(shapes)
    }
    for some in (tensors, {}, {"größe": torch.ones(3)}):
        file = io.BytesIO()
        write_to(file, some, {"nolabel": '{"a": "é\\n"}'})
        assert file.getvalue() == save(some, {"nolabel": '{"a": "é\\n"}'})
