"""What every test shares."""
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers whichever tests ran before, and no default left changed."""
    torch.manual_seed(0)
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
