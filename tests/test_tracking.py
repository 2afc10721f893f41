"""``ttr compare --track``: every run is given to the library once, with its curves."""

import importlib.machinery
import importlib.util
import sys
import types

import pytest

from ttr.experiments import tracking
from ttr.experiments.errors import UserError
from ttr.experiments.tracking import check_installed, track

RUN = (
    {"memory": "gla", "seed": 3, "rate": 0.01},
    {"loss": [5.0, 4.0, 3.0], "curve": [[2, 4.5], [3, 3.5]], "tuning_bits_per_byte": 3.25},
)
CURVES = {"training loss": [(1, 5.0), (2, 4.0), (3, 3.0)], "validation": [(2, 4.5), (3, 3.5)]}
CURVES["tuning"] = [(3, 3.25)]
FIRST_STAGES = ({"memory": "gla"}, {"loss": [5.0], "tuning_bits_per_byte": 4.75})


@pytest.fixture
def trackio(monkeypatch):
    """A module in the place of Trackio that keeps what it is given."""
    module = types.ModuleType("trackio")
    module.__spec__ = importlib.machinery.ModuleSpec("trackio", None)
    module.given = []
    module.init = lambda **options: module.given.append((options, []))
    module.log = lambda metrics, step: module.given[-1][1].append((step, metrics))
    module.finish = lambda: None
    monkeypatch.setitem(sys.modules, "trackio", module)
    return module


def test_a_run_is_given_once_with_its_curves(trackio, tmp_path):
    folder = tmp_path / "mine"
    for _ in range(2):
        track("trackio", folder, {"gla.seed3": RUN, "gla.short": FIRST_STAGES})
    (options, logged), (_, short) = trackio.given
    assert (options["project"], options["name"], options["config"]) == ("mine", "gla.seed3", RUN[0])
    assert logged == [
        (1, {"training loss": 5.0}),
        (2, {"training loss": 4.0, "validation": 4.5}),
        (3, {"training loss": 3.0, "validation": 3.5, "tuning": 3.25}),
    ]
    assert short == [(1, {"training loss": 5.0, "tuning": 4.75})]


def test_a_run_that_the_library_did_not_take_is_given_again(trackio, tmp_path, monkeypatch):
    def refuse():
        raise OSError("no space")

    monkeypatch.setattr(trackio, "finish", refuse)
    with pytest.raises(OSError):
        track("trackio", tmp_path, {"gla": RUN})
    monkeypatch.setattr(trackio, "finish", lambda: None)
    track("trackio", tmp_path, {"gla": RUN})
    assert len(trackio.given) == 2


def test_a_library_that_is_unknown_or_missing_is_named(monkeypatch):
    with pytest.raises(UserError, match="tensorboard or trackio, not 'wandb'"):
        check_installed("wandb")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in tracking.LIBRARIES:
        with pytest.raises(UserError, match=f"pip install {name}"):
            check_installed(name)


def test_tensorboard_reads_the_curves(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track("tensorboard", tmp_path, {"gla.seed3": RUN})
    events = EventAccumulator(str(tmp_path / "tensorboard" / "gla.seed3"))
    events.Reload()
    found = {
        name: [(event.step, event.value) for event in events.Scalars(f"bits per byte/{name}")]
        for name in CURVES
    }
    assert found == CURVES
    assert b"seed: 3" in events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]


def test_trackio_keeps_the_curves(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))  # read when it is imported
    trackio = pytest.importorskip("trackio")

    track("trackio", tmp_path / "ttr-test", {"gla.seed3": RUN})
    [run] = [run for run in trackio.Api().runs("ttr-test") if run.name == "gla.seed3"]
    assert run.config["memory"] == "gla"
