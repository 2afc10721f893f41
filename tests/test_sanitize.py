"""The foundations of `make sanitize`: calls are recorded as they are made, and every sanitizer finds a
planted fault."""

import dataclasses
import shutil
import subprocess

import pytest
import torch

import ttr
from tests.sanitize import __main__ as sanitize
from tests.sanitize.recorder import joined, recording, span
from ttr.engines.native import library
from ttr.laws.rows import Sizes, make_case
from ttr.operators.short_convolution import short_convolution

pytestmark = [
    pytest.mark.skipif(not library.available(), reason=library.reason() or ""),
    pytest.mark.skipif(shutil.which(sanitize.COMPILER) is None, reason=("There is no C compiler here.")),
]


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(sanitize, "FOLDER", tmp_path)
    return tmp_path


def convolve(channels=40):
    """One convolution forwards and backwards, with enough channels for several threads."""
    x = torch.randn(2, 5, channels, requires_grad=True)
    short_convolution(
        x, torch.zeros(2, 3, channels), torch.randn(4, channels, requires_grad=True), silu=True
    ).sum().backward()


def test_what_a_tensor_reaches():
    x = torch.zeros(4, 6)
    assert [span(x), span(x[1:, 2:]), span(x[:, ::2]), span(x[:1].expand(9, 6)), span(x[:0])] == [
        96,
        64,
        92,
        24,
        0,
    ]
    assert joined({100: 8, 104: 8, 112: 4, 200: 1}) == [(100, 112), (112, 116), (200, 201)]


def decode():
    for name in ("gated-deltanet", "softmax-attention"):
        mixer = ttr.nn.Mixer(16, ttr.catalogue[name], heads=2)
        with torch.no_grad():
            state = mixer.initial_state(2)
            for token in torch.randn(3, 2, 16):
                _, state = mixer.step(token, state)


def test_recorded_calls_give_the_same_bits_without_python(folder):
    names = ("gated-deltanet", "local-linear-attention", "ttt-mlp", "gated-kalmanet", "mesanet")
    cases = [
        make_case(ttr.catalogue[name].problem, Sizes(time=40), dtype=torch.float32).differentiable()
        for name in names
    ]
    few = Sizes(time=40, value=1)
    cases += [make_case(ttr.catalogue["hgrn"].problem, few, dtype=torch.float32).differentiable()]
    quadratic = ttr.catalogue["local-quadratic-attention"].problem
    case = make_case(quadratic, Sizes(time=40), dtype=torch.float32)
    ridges = {"ridge": torch.ones_like(case.controls["ridge"])}  # one for all monomials: the dual form
    cases += [dataclasses.replace(case, controls=case.controls | ridges).differentiable()]
    with recording(folder / "calls") as recorder:
        convolve()
        for case in cases:
            ttr.regress(case.problem, **case.arguments()).square().sum().backward()
        decode()
    assert {name.split()[0] for name in recorder.calls} == {*library.KERNELS}
    plain = sanitize.replayer("plain", "-O1")
    sanitize.replay(plain, library.library().path, folder / "calls", "exact", MALLOC_PERTURB_="1")
    whole = bytearray((folder / "calls").read_bytes())
    whole[len(whole) - 200] ^= 1  # the end is pointers, before it what the last call left
    (folder / "calls").write_bytes(whole)
    with pytest.raises(subprocess.CalledProcessError):
        sanitize.replay(plain, library.library().path, folder / "calls", "exact")


FAULTS = {
    "reads past the end": (
        "address",
        "s->x + t * c->x_stride",
        "s->x + t * c->x_stride + 1",
        "ERROR: AddressSanitizer",
    ),
    "reads what is freed": (
        "address",
        "    return 0;\n}",
        "    free((void *)c->x);\n    return c->x[0] > 1e30f;\n}",
        "heap-use-after-free",
    ),
    "signed overflow": (
        "address",
        "(summed += count)",
        "(summed += count * 0x7fffffff)",
        "signed integer overflow",
    ),
    "a race that changes no number": (
        "thread",
        "    const Slab *slab = argument;",
        "    const Slab *slab = argument;\n    ((Convolution *)slab->c)->threads = 0;",
        "data race",
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("kind, old, new, report", FAULTS.values(), ids=FAULTS)
def test_a_planted_fault_is_seen(folder, capfd, kind, old, new, report):
    with recording(folder / "calls"):
        convolve()
    sources = sanitize.ROOT / "src/ttr/engines/native/csrc"
    program = sanitize.replayer(kind, sanitize.FLAGS[kind])
    for fault in (False, True):
        code = (sources / "convolution.c").read_text()
        assert code.count(old) == 1
        (folder / "convolution.c").write_text(
            ("#include <stdlib.h>\n" + code.replace(old, new)) if fault else code
        )
        macros = ["-DTTR_ISA=portable", "-DTTR_REAL=float", "-DTTR_VECTOR_BYTES=16", f"-I{sources}"]
        subprocess.run(
            [
                sanitize.COMPILER,
                "-std=c11",
                "-shared",
                "-fPIC",
                *sanitize.FLAGS[kind].split(),
                *macros,
                str(folder / "convolution.c"),
                str(sources / "abi.c"),
                "-o",
                str(folder / "kernels.so"),
                "-pthread",
                "-lm",
            ],
            check=True,
        )
        if fault:
            with pytest.raises(subprocess.CalledProcessError):
                sanitize.replay(program, folder / "kernels.so", folder / "calls")
            assert report in capfd.readouterr().err
        else:
            sanitize.replay(program, folder / "kernels.so", folder / "calls")
