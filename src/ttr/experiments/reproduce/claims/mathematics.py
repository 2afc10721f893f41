"""Claims of the mathematics: biases and rates of local fits, and how regressions are solved."""

from __future__ import annotations

import math

from ttr import solvers
from ttr.experiments.reproduce.boundary import BIAS, ERROR, THEORY, BoundaryExperiment
from ttr.experiments.reproduce.claims.common import PAPER, SEEDS, SUBSTITUTE
from ttr.experiments.reproduce.convergence import ConvergenceExperiment
from ttr.experiments.reproduce.experiment import Band
from ttr.experiments.reproduce.learners import least_squares, local_linear, local_quadratic, softmax
from ttr.experiments.reproduce.solving import Solve, SolvingExperiment
from ttr.experiments.reproduce.streams import Learner, Panel

CONSTANT, LINE, SQUARE = "order 0: softmax attention", "order 1: local linear", "order 2: local quadratic"
SCALES = (16.0, 32.0, 64.0, 128.0, 256.0)

BOUNDARY_BIAS = BoundaryExperiment(
    name="boundary-bias",
    title="Bias at the boundary",
    claim="Where the region of the keys ends, all keys lie on one side of a query, and the local constant "
    "fit (softmax attention) has a bias that grows with the first power of its bandwidth; local linear "
    "regression, and local quadratic, remove it.",
    source=f"{PAPER}, section 4",
    formula=r"\mathrm{E}\,\hat v(q) - v(q) \approx c_1\, h\, v'(q),\qquad "
    r"c_1 = \sqrt{2/\pi} \;\text{for order 0 at an end},\qquad "
    r"c_1 = 0 \;\text{in the middle, and for order 1}",
    protocol=SUBSTITUTE
    + "Keys on an arc of 120 degrees, values (a, a^2) of the angle a + noise of 0.05; the last 31 of 256 "
    "tokens are asked, each at an angle of its own. The bias is that of the mean read-out over 256 streams. "
    "Bandwidth h = 1/sqrt(128) = 0.088 radians, and others for the bias at the ends; ridge 1e-6.",
    reading="Most of the squared bias of the higher orders is chance, the variance of a read-out over the "
    "number of streams, so their own power of the bandwidth is not measured. Keys on a circle give the "
    "linear fit a second direction, along the radius, so that it fits the square of the angle too and has "
    "less bias in the middle as well. The higher orders pay with variance at the ends: their mean squared "
    "error there is several times that in the middle.",
    orders={
        CONSTANT: {scale: softmax(scale) for scale in SCALES},
        LINE: {scale: local_linear(scale, 1e-6) for scale in SCALES},
        SQUARE: {scale: local_quadratic(scale, 1e-6) for scale in SCALES},
    },
    shown=128.0,
    length=256,
    angles=31,
    settings={"half_angle": math.pi / 3, "noise": 0.05},
    bands=[
        *(Band(f"{CONSTANT}, {BIAS}, ends", f"{order}, {BIAS}, ends", low=100.0) for order in (LINE, SQUARE)),
        Band(f"{CONSTANT}, {BIAS}, ends", f"{CONSTANT}, {BIAS}, middle", low=50.0),
        Band(f"{CONSTANT}, {BIAS}, ends", THEORY, low=0.85, high=1.05),
        Band(f"{CONSTANT}, power of the bandwidth", low=0.85, high=1.05),
        *(Band(f"{CONSTANT}, {ERROR}, ends", f"{order}, {ERROR}, ends", low=5.0) for order in (LINE, SQUARE)),
        *(
            Band(f"{CONSTANT}, {ERROR}, middle", f"{order}, {ERROR}, middle", high=2.5)
            for order in (LINE, SQUARE)
        ),
        *(Band(f"{order}, {ERROR}, ends", f"{order}, {ERROR}, middle", low=3.0) for order in (LINE, SQUARE)),
    ],
    streams={"smoke": 256, "laptop": 256, "gpu": 1024},
    seeds=SEEDS,
)

POWERS = tuple(2.0**i for i in range(13))
KINDS = ((2, 0.3), (3, 0.3), (5, 0.3), (3, 0.05))
TITLES = [f"{size} channels, noise {noise:g}" for size, noise in KINDS]
_, THREE, FIVE, QUIET = TITLES


def _learners() -> list[Learner]:
    """A ridge of a hundredth of the squared bandwidth, which is the variance of the keys within it."""
    return [
        Learner("global linear", [least_squares(1e-3)]),
        Learner(CONSTANT, [softmax(scale) for scale in POWERS]),
        Learner(LINE, [local_linear(scale, 0.01 / scale) for scale in POWERS[:11]]),
    ]


CONVERGENCE = ConvergenceExperiment(
    name="convergence",
    title="Error against context and dimension",
    claim="On a non-linear map global linear regression keeps its error however many pairs it reads; local "
    "regression does not, and with 5 channels order 1 falls faster than order 0. The more dimensions the "
    "keys fill, the slower.",
    source=f"{PAPER}, section 4; Zuo et al., Local linear attention, arXiv 2510.01450",
    formula=r"\text{global linear: } \Omega(1),\qquad \text{order 0: } n^{-3/(p+3)},\qquad "
    r"\text{order 1: } n^{-4/(p+4)},\qquad p = d - 1",
    protocol=SUBSTITUTE
    + "The smooth map on a cap of the sphere, of radius 0.8, with 2, 3 and 5 channels and noise of 0.3 or "
    "0.05. Unit keys of d channels fill p = d - 1 dimensions, so p stands in the rates where the source has "
    "the dimension of its keys. A full sphere would not do: it has no boundary, and only there is the rate "
    "of order 0 the worse one. At every number n of pairs each order has the bandwidth that is best there on "
    "other streams, of powers of 2; an error is the mean over the tokens that have read n/2 to n pairs, "
    "measured from the true value. Slopes are fitted from 256 pairs on.",
    reading="The rates are upper bounds for the worst map; measured slopes are mostly steeper. With 2 and 3 "
    "channels the theory has the two orders 0.05 and 0.07 apart, and in pilots their slopes differed less "
    "than those of seeds: nothing is asked of them there. With little noise the claim about slopes does not "
    "hold: the error of order 0 is then mostly the spread of the values within its bandwidth, which shrinks "
    "with the bandwidth, so that it falls faster, from several times the error of order 1, which stays "
    "ahead.",
    panels=[
        Panel(title, "smooth-map", {"length": 4096, "size": size, "noise": noise, "radius": 0.8}, _learners())
        for title, (size, noise) in zip(TITLES, KINDS, strict=True)
    ],
    contexts=(128, 256, 512, 1024, 2048, 4096),
    fitted_from=256,
    rates={CONSTANT: (3, 3), LINE: (4, 4)},
    bands=[
        Band(f"{FIVE}, {LINE}, slope", f"{FIVE}, {CONSTANT}, slope", low=1.05),
        *(
            Band(f"{title}, global linear, 4096 pairs", f"{title}, global linear, 512 pairs", low=0.85)
            for title in TITLES
        ),
        *(
            Band(f"{title}, {CONSTANT}, 4096 pairs", f"{title}, {CONSTANT}, 512 pairs", high=0.45)
            for title in TITLES
        ),
        *(
            Band(f"{title}, global linear, 4096 pairs", f"{title}, {CONSTANT}, 4096 pairs", low=5.0)
            for title in TITLES
        ),
        *(
            Band(f"{title}, {LINE}, 4096 pairs", f"{title}, {CONSTANT}, 4096 pairs", high=most)
            for title, most in zip(TITLES, (0.95, 0.75, 0.65, 0.6), strict=True)
        ),
        *(
            Band(f"{FIVE}, {order}, slope", f"{THREE}, {order}, slope", high=1.0)
            for order in (CONSTANT, LINE)
        ),
        Band(f"{QUIET}, {LINE}, slope", f"{QUIET}, {CONSTANT}, slope", high=0.95),
    ],
    streams={"smoke": 2, "laptop": 8, "gpu": 32},
    seeds=SEEDS,
)

ALIKE, CORRELATED = "all directions alike", "correlated keys"
CG, CHEBYSHEV = "conjugate gradient", "Chebyshev"
DAMPED = f"{CORRELATED}, damped by 1e-5"
PLAIN = solvers.ConjugateGradient(damping=1e-30)
ALIKE_KEYS, CORRELATED_KEYS = ({"length": 1025, "size": 64, "spread": spread} for spread in (0.0, 2.0))
MOVING_KEYS = {"length": 257, "size": 32, "segment": 64}

SOLVERS = SolvingExperiment(
    name="solvers",
    title="Solving the regression by iteration",
    claim="Conjugate gradient needs few iterations where keys point in all directions or the ridge is large, "
    "and more for correlated keys: it adapts to the data. Chebyshev iteration needs the same number whatever "
    "the data.",
    source="von Oswald et al., MesaNet, arXiv 2506.05233; Gated KalmaNet, arXiv 2511.21016; Zuo et al., "
    "Local linear attention, arXiv 2510.01450",
    formula=r"(H_t + \lambda I)\,x = q_t,\qquad H_t = \sum_{i \le t} k_i k_i^\top;\qquad "
    r"(\mathrm{Cov}_p(k) + \lambda I)\,x = \bar k - q_t",
    protocol="Ridge regression: the system after 1,024 unit keys of 64 channels, ridge 1, all directions "
    "alike or with a covariance whose eigenvalues fall from 1 to 0.01; Chebyshev iteration has a ridge of "
    "its own, 0.02 ||H||_F, and bounds that follow from it. Local linear attention: the systems of all "
    "tokens of a piecewise linear stream, 256 tokens in segments of 64, 32 channels, scale 16. The library's "
    "own solvers, in float64; numbers of iterations are medians over systems, 61 where 60 are not enough.",
    reading="The 30 steps of MesaNet are not enough for 1e-6 with correlated keys. Its released code adds "
    "1e-5 to the denominators of conjugate gradient, which holds the residual back: with correlated keys it "
    "does not reach 1e-4 in 60 steps. That Chebyshev iteration takes the same number is no sign of speed: "
    "its ridge grows with the keys, so that every system has a condition of at most 51, and it takes the "
    "steps for 51 where the condition is 2.",
    curves={
        f"{ALIKE}, {CG}": Solve("global", "linear-map", ALIKE_KEYS, PLAIN, 1.0),
        f"{CORRELATED}, {CG}": Solve("global", "linear-map", CORRELATED_KEYS, PLAIN, 1.0),
        f"{ALIKE}, {CHEBYSHEV}": Solve("global", "linear-map", ALIKE_KEYS, solvers.Chebyshev()),
        f"{CORRELATED}, {CHEBYSHEV}": Solve("global", "linear-map", CORRELATED_KEYS, solvers.Chebyshev()),
        DAMPED: Solve("global", "linear-map", CORRELATED_KEYS, solvers.ConjugateGradient(), 1.0),
    },
    sweep={
        ridge: Solve("local", "piecewise-linear", MOVING_KEYS, PLAIN, ridge, 16.0)
        for ridge in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    },
    iterations=60,
    residuals=(1e-2, 1e-4, 1e-6),
    bands=[
        Band(f"{CORRELATED}, {CG}, to 0.0001", f"{ALIKE}, {CG}, to 0.0001", low=2.5),
        Band(f"{CORRELATED}, {CHEBYSHEV}, to 0.0001", f"{ALIKE}, {CHEBYSHEV}, to 0.0001", low=0.9, high=1.1),
        Band(f"{ALIKE}, {CG}, to 0.0001", low=5.0, high=9.0),
        Band(f"{CORRELATED}, {CG}, to 0.0001", low=20.0, high=32.0),
        Band(f"{CORRELATED}, {CG}, to 1e-06", low=31.0),
        *(
            Band(f"{keys}, {CHEBYSHEV}, to {residual}", low=low, high=high)
            for keys in (ALIKE, CORRELATED)
            for residual, low, high in (("0.01", 15.0, 19.0), ("0.0001", 30.0, 36.0), ("1e-06", 46.0, 54.0))
        ),
        Band(f"{DAMPED}, to 0.0001", low=61.0),
        Band("ridge 1, to 1e-06", high=6.0),
        Band("ridge 0.01, to 1e-06", high=17.0),
        Band("ridge 0.001, to 1e-06", high=32.0),
        Band("ridge 0.0001, to 1e-06", "ridge 1, to 1e-06", low=4.0),
    ],
    streams={"smoke": 2, "laptop": 4, "gpu": 16},
    seeds=SEEDS,
)
