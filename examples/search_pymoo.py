"""Search with pymoo: the net of the best score whose activations fit 256 KiB.

    pip install 'cnnlive[nas]'
    python examples/search_pymoo.py

The space is MCUNet's: Once-for-All's Proxyless nets of several widths and resolutions, any depths, kernels and
expansions. A score takes a built network; here it is the multiply-accumulates, which stand in for accuracy: of nets
that fit a memory, those that compute more are the more accurate ones (MCUNet, https://arxiv.org/abs/2007.10319,
section 3.1). Put training, or a predictor, in the place of `score`.
"""

import argparse
import time

import numpy as np
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.operators.crossover.ux import UX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.optimize import minimize

import cnnlive
from cnnlive.nas import Limit, spaces
from cnnlive.nas.adapters import problem

# MCUNet has widths 0.2, 0.3, ..., 1.0 and resolutions 48, 64, ..., 224; every pair is built once, so a few are quicker.
WIDTHS = (0.3, 0.5, 0.7, 1.0)
RESOLUTIONS = (96, 128, 160, 192, 224)


def score(graph: cnnlive.Graph) -> int:
    """Return the multiply-accumulates of a network."""
    return cnnlive.plan_inference(graph).macs


def main() -> None:
    """Search, and print what was found and how many candidates were never built."""
    parser = argparse.ArgumentParser(description="The net of the best score whose activations fit a budget.")
    parser.add_argument("--budget", default="256KiB", help="of activations alive at once, in int8")
    parser.add_argument("--population", type=int, default=60)
    parser.add_argument("--generations", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start = time.perf_counter()

    space = spaces.ofa_proxyless(widths=WIDTHS, resolutions=RESOLUTIONS, mix="mcunet")
    limit = Limit(space, peak=arguments.budget, dtype="int8")

    def objective(rows: np.ndarray) -> np.ndarray:
        return np.array([-score(space.graph(x)) for x in rows])  # pymoo minimises

    search = problem(limit, objective)
    algorithm = GA(
        pop_size=arguments.population,
        sampling=limit.sample(arguments.population, rng=arguments.seed).astype(float),  # all of these fit
        crossover=UX(),
        mutation=PM(vtype=float, repair=RoundingRepair()),
    )
    found = minimize(search, algorithm, ("n_gen", arguments.generations), seed=arguments.seed)

    best = space.canonical(np.rint(found.X).astype(int))[0]
    numbers = space.evaluate([best], ("macs", "params", "inference_peak"), dtype="int8")
    print(f"{search.n_asked} candidates, {search.n_rejected} of them rejected by the constraint before they were built")
    print(f"best: {numbers['macs'][0]:,} MACs, {numbers['params'][0]:,} parameters, "
          f"{numbers['inference_peak'][0]:,} bytes of activations")  # fmt: skip
    print(f"      {space.decode(best)}")
    # What no search of candidates can say: the space knows its best member, by dynamic programming.
    print(f"the best of all that fit: {space.best('macs', limit).score:,} MACs")
    print(f"{time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
