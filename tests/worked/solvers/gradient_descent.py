from __future__ import annotations

import torch

from tests.worked import HandWorked
from tests.worked import cases as cases_of
from ttr.functions.linear import Linear
from ttr.functions.mlp import Mlp
from ttr.problem import Problem
from ttr.solvers.gradient_descent import GradientDescent
from ttr.solvers.losses.huber import Huber
from ttr.solvers.losses.power_error import PowerError
from ttr.solvers.maps.newton_schulz import NewtonSchulz
from ttr.solvers.maps.power_norm import PowerNorm
from ttr.solvers.maps.simplex import Simplex
from ttr.weights.geometric import Geometric
from ttr.weights.uniform import Uniform


def cases() -> tuple[HandWorked, ...]:
    q, k, v, robust, window, norm, simplex = (
        torch.tensor(rows, dtype=torch.float64)[None, :, None]
        for rows in (
            [[2, 3], [-3, 2], [0.5, -2], [3, 0.5]],
            [[0.5, 2], [1.5, -0.5], [-0.5, 1.5], [2, 0.5]],
            [[2, -3, 4], [-2, 4, 3], [5, -0.5, -4], [3, 2, -2]],
            # Huber, thresholds 2.5, 6, 2, 1.5, momenta 0.4, 0.3, 0.7, 0.2, decays 0.5, 0.8, 0.25, 0.6. Errors
            # of S = 0 for both tokens of the first chunk: -v_1 of length sqrt(29) = 5.385 > 2.5, slope -2.5
            # v_1 / sqrt(29); -v_2 of the same length < 6, itself. Z_1 = S_1 = -0.5 k_1 slope_1^T =
            # [[0.232119172721, -0.348178759082, 0.464238345443], [0.928476690885, -1.392715036328,
            # 1.856953381771]]; Z_2 = 0.3 Z_1 - 0.2 k_2 slope_2^T; S_2 = 0.8 S_1 + Z_2 = [[-0.344668910007,
            # 0.817003365010, 1.410662179987], [1.221324359974, -1.931986539961, 1.742648719948]]. Errors at
            # S_2 of length 7.194614738386 and 6.607471625959, both beyond.
            [
                [1.62483420905, -2.43725131357, 3.2496684181],
                [1.73832772498, -3.15749158748, -0.373344550033],
                [-1.56660376665, 0.537592444352, 1.25587152792],
                [0.095069208664, 1.06019510326, 0.375830897964],
            ],
            # Squared error over two tokens, orthogonalised by two iterations, chunks of one. G_1 = 0.5 k_1
            # v_1^T = [[0.5, -0.75, 1], [2, -3, 4]] of norm 5.550901, over 5.650901; its one singular value s
            # becomes 2 s - 1.5 s^3 + 0.5 s^5 and then 1.5 s - 0.5 s^3 + 0.25 s^5: S_1 = [[0.112609812547,
            # -0.168914718820, 0.225219625094], [0.450439250187, -0.675658875281, 0.900878500375]]. G_2 = 0.5
            # k_1 (v_1 - S_1^T k_1)^T + 0.2 k_2 (v_2 - S_1^T k_2)^T = [[-0.322404379780, 0.783606569670,
            # 1.455191240440], [1.237186102725, -1.955779154087, 1.774372205449]], and so on with pairs 2, 3
            # at S_2 and 3, 4 at S_3.
            [
                [0.788268687828, -1.18240303174, 1.57653737566],
                [1.15931883663, -2.07011278293, 0.000695977398987],
                [-1.64696930697, 1.33962177981, -0.286960726308],
                [0.266107182467, 0.669198055584, 1.58628465365],
            ],
            # A network of one matrix W, cubic loss, weights A / ||A||_4^2; steps a fifth. Errors at the start
            # (-1.622653846092, 3.619925824278, -4) and (2.080859890123, -4.242579670369, -2.299214285599),
            # slopes e |e|; A <- A - step k slope^T.
            [
                [0.465567309131, -0.472843670496, 1.25233498456],
                [0.132413368409, -0.286540884589, -0.342203624198],
                [-0.326212610677, 0.0860276907378, 0.0898248237783],
                [0.0778024861115, 0.037278843308, 0.268439635603],
            ],
            # The same with the squared error and weights 2.5 softmax over the two inputs: errors
            # (1.358161878322, 7.444823007381, -2.465531824920) and (2.939117495571, -4.509764009842,
            # 0.370709099894).
            [
                [6.27891716372, 6.63308009506, 5.26549708152],
                [-0.376366580059, -0.403682174278, -6.13691347625],
                [-3.43623874786, -1.51912689692, 0.921363518363],
                [2.82827228284, 4.60948292267, 6.92953516394],
            ],
        )
    )
    gates = {
        "step_size": [0.5, 0.2, 0.6, 0.3],
        "momentum": [0.4, 0.3, 0.7, 0.2],
        "threshold": [2.5, 6, 2, 1.5],
        "log_decay": [0.5, 0.8, 0.25, 0.6],
    }
    gates = {name: torch.tensor(x, dtype=torch.float64)[None, :, None] for name, x in gates.items()}
    step, gates["log_decay"] = {"step_size": gates["step_size"]}, gates["log_decay"].log()
    fifth = {"step_size": gates["step_size"] / 5}
    start = {"function.w1": torch.tensor([[[0.5, -0.25, 2], [0.75, 1.5, -0.5]]], dtype=torch.float64)}
    linear, matrix = Linear(scale=0.5), Mlp(depth=1, residual=False, start=0.5)
    soft = NewtonSchulz(((2.0, -1.5, 0.5), (1.5, -0.5, 0.25)), eps=0.1)
    return (
        HandWorked(
            Problem(Geometric(), linear, GradientDescent(chunk=2, loss=Huber(), momentum=True)),
            q,
            k,
            v,
            robust,
            gates,
        ),
        HandWorked(
            Problem(Uniform(), linear, GradientDescent(window=2, orthogonalise=soft)), q, k, v, window, step
        ),
        HandWorked(
            Problem(Uniform(), matrix, GradientDescent(chunk=2, loss=PowerError(3.0), mirror=PowerNorm(4.0))),
            q,
            k,
            v,
            norm,
            fifth,
            start,
        ),
        HandWorked(
            Problem(Uniform(), matrix, GradientDescent(chunk=2, mirror=Simplex(2.5))),
            q,
            k,
            v,
            simplex,
            fifth,
            start,
        ),
        cases_of(Mlp)[0],
    )  # with read steps
