"""One small result of every kind, by the name of its class: what is drawn, shown and put into tables."""

import functools

import numpy as np

import cnnlive
from cnnlive.nas import Gene, Limit, Slot, Space
from cnnlive.plan.compare import compare_profiles
from cnnlive.plan.wraps import plan_wraps


def net():
    """Build a net with a branch, so that something is held for later."""
    g = cnnlive.Graph("small")
    x = g.input((1, 3, 16, 16))
    with g.scope("stem"):
        x = g.relu(g.batch_norm2d(g.conv2d(x, 8, 3, padding=1)))
    with g.scope("block"):
        y = g.relu(g.conv2d(x, 8, 3, padding=1))
        x = g.add(g.conv2d(y, 8, 3, padding=1), x)
    g.linear(g.flatten(g.max_pool2d(x, 2)), 10)
    return g


def two_branches():
    """Build a net whose best order is not the program's."""
    g = cnnlive.Graph("two branches")
    x = g.input((1, 1, 8, 8))
    a, b = g.conv2d(x, 8, 1), g.conv2d(x, 8, 1)
    g.add(g.max_pool2d(a, 8), g.max_pool2d(b, 8))
    return g


def chain():
    """Make a chain of six stages."""
    n = 6
    size = np.arange(n + 1, 0, -1) * 2**20
    return cnnlive.Chain.of(np.ones(n), np.full(n, 2.0), size, 3 * size[1:], name="chain")


def long_chain():
    """Make a chain whose frontier has hundreds of plans."""
    rng = np.random.default_rng(0)
    n = 200
    size = rng.integers(1, 1000, n + 1) * 1024
    return cnnlive.Chain.of(rng.integers(1, 99, n), rng.integers(1, 99, n), size, 3 * size[1:], name="long chain")


def space():
    """Build a search space of eight members."""

    def stem(g, width):
        return g.relu(g.conv2d(g.input((1, 3, 16, 16)), width, 3, padding=1))

    def head(g, x, kernel):
        return g.linear(g.flatten(g.global_avg_pool2d(g.conv2d(x, 8, kernel))), 10)

    genes = [Gene("width", (4, 8, 16, 32)), Gene("kernel", (1, 3))]
    slots = [Slot("stem", stem, {"width": "width"}), Slot("head", head, {"kernel": "kernel"})]
    return Space("small space", genes, slots)


@functools.cache
def checkpoint_frontier():
    return cnnlive.checkpoint_frontier(net(), batch=8, points=5, optimizer="sgd")


@functools.cache
def results():
    """Return a result of every kind by the name of its class."""
    frontier = checkpoint_frontier()
    middle = frontier.plans[1]
    chains = cnnlive.chain_frontier(chain())
    members = space()
    limit = Limit(members, peak="64KiB", params=3000)
    found = [
        cnnlive.plan_inference(net(), batch=2),
        cnnlive.plan_training(net(), batch=4, optimizer="adam"),
        cnnlive.plan_order(two_branches()),
        cnnlive.plan_arena(net(), fuse=True),
        cnnlive.plan_shared_objects(net(), fuse=True),
        compare_profiles(net(), profiles=["ideal", "torch", "tflm", "tinyengine"]),
        cnnlive.fits(net(), device="1MiB", batch=4, context_bytes=1000),
        cnnlive.rules_of_thumb(net())["training_adam"],
        middle,
        middle.remat,
        plan_wraps(middle.step, middle.budget),
        frontier,
        frontier.remat,
        chains,
        chains[0],
        cnnlive.wrap_frontier(middle.step),
        members.evaluate(np.concatenate(list(members.members()))),
        members.best("macs", limit),
        members.pareto("macs", "inference_peak", limit),
        members.walk([1, 1]),
    ]
    return {type(result).__name__: result for result in found}
