"""Products by oneDNN: only inside the block, with float32 precision, refused where that would not hold, and
all settings restored afterwards."""

import threading

import pytest
import torch

import ttr
from ttr import matmul
from ttr.laws.rows import make_case
from ttr.laws.tolerances import error, tolerance

pytestmark = pytest.mark.skipif(matmul.refuses() is not None, reason=str(matmul.refuses()))


def settings():
    """All of torch's settings for the precision of products; the error where reading one raises."""
    backends, found = torch.backends, []
    for ask in (
        torch.get_float32_matmul_precision,
        lambda: backends.mkldnn.matmul.fp32_precision,
        lambda: backends.mkldnn.fp32_precision,
        lambda: backends.mkldnn.conv.fp32_precision,
        lambda: backends.cuda.matmul.fp32_precision,
        lambda: backends.cuda.matmul.allow_tf32,
    ):
        try:
            found.append(ask())
        except (RuntimeError, AttributeError) as failure:
            found.append(type(failure))
    return found


@pytest.fixture
def before():
    """The settings before a test, which it must restore."""
    found = settings()
    yield found
    assert settings() == found


def test_the_switch_is_on_inside_and_as_before_afterwards(before):
    with ttr.onednn():
        assert settings() != before
        with ttr.onednn():
            assert settings() != before
        assert settings() != before
    assert settings() == before
    with pytest.raises(KeyError), ttr.onednn():
        raise KeyError
    assert settings() == before


def test_a_choice_of_the_users_own_comes_back(before):
    torch.set_float32_matmul_precision("high")
    try:
        chosen = settings()
        with ttr.onednn():
            assert settings() != chosen
        assert settings() == chosen
    finally:
        torch.set_float32_matmul_precision("highest")
        if hasattr(torch.backends.mkldnn, "matmul"):
            torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision = (
                before[1],
                before[4],
            )


def test_the_last_of_several_threads_switches_back(before):
    """Blocks that overlap without nesting: A opens, B opens, A ends, B ends."""
    opened, ended = threading.Event(), threading.Event()

    def second():
        with ttr.onednn():
            opened.set()
            ended.wait()

    thread = threading.Thread(target=second)
    with ttr.onednn():
        thread.start()
        opened.wait()
    still = settings()
    ended.set()
    thread.join()
    assert still != before and settings() == before


def test_products_are_float32s(before):
    a, b = torch.randn(32, 128, 128), torch.randn(32, 128, 128)
    with ttr.onednn():
        for left, right in ((a, b), (a[0], b[0])):
            assert error(left @ right, left.double() @ right.double()) <= matmul.ROUNDED


@pytest.mark.parametrize("name", ["gated-deltanet", "kda"])
def test_a_memory_runs_inside(before, name):
    case = make_case(ttr.catalogue[name].problem, dtype=torch.float32)
    with ttr.onednn():
        y = ttr.regress(case.problem, **case.arguments())
    assert error(y, ttr.oracle(case.problem, **case.arguments())) <= tolerance(torch.float32)


@pytest.mark.parametrize(
    "place, answer, message",
    [
        ("torch.cpu._is_amx_tile_supported", True, r"\(AMX\).*bfloat16"),
        ("ttr.matmul._error_of_a_product", 2.0**-9, "wrong by"),
        ("ttr.matmul._error_of_a_product", float("nan"), "wrong by"),
        ("torch.backends.mkldnn.is_available", False, "no oneDNN"),
    ],
)
def test_it_is_refused_where_it_would_round(before, monkeypatch, place, answer, message):
    monkeypatch.setattr(place, lambda: answer)
    with pytest.raises(RuntimeError, match=message), ttr.onednn():
        pass


def test_the_check_detects_rounded_products(before, monkeypatch):
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor,
        "__matmul__",
        lambda a, b: (
            product(a.bfloat16(), b.bfloat16()).to(a.dtype) if a.dtype == torch.float32 else product(a, b)
        ),
    )
    assert matmul._error_of_a_product.__wrapped__() > matmul.ROUNDED
