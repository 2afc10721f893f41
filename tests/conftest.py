"""Strict numerics for every test: shapes are checked as types, one thread, warnings are errors
(pyproject)."""

import os

from jaxtyping import install_import_hook

# torch.compile cannot trace the checks; its tests switch them off
if os.environ.get("TTR_TEST_TYPES", "1") == "1":
    install_import_hook("ttr", "beartype.beartype")

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Test processes share the machine, where more threads than cores would slow all down."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run what belongs to `make check`")
    parser.addoption("--layer", help="of tests/contract/test_laws.py the laws of this catalogue entry alone")
    parser.addoption("--law", help="of tests/contract/test_laws.py this law alone, by number or name")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--layer") or config.getoption("--law"):
        left = [item for item in items if getattr(item, "originalname", "") != "test_laws"]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    # deselected, not skipped: reporting so many skips would take half a minute
    if not config.getoption("--full"):
        left = [item for item in items if "full" in item.keywords]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if "full" not in item.keywords]
