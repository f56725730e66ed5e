"""What one step of PyTorch's optimizers allocates and frees, byte for byte, and the state they keep.

Each optimizer is a short program over the local variables of PyTorch's own loop, since those decide when a
tensor dies: ``denom`` of one parameter lives until the next parameter rebinds the name, a list of a foreach
implementation until it is deleted or the function returns. One interpreter runs every program.

A program is a text of instructions separated by blanks. ``x`` and ``y`` are names of local variables:

``+x``, ``+x:k``
    Allocate a tensor as large as the parameter, or of kind ``k`` (below), and bind it to ``x``. What ``x`` held
    dies after the allocation, as in Python.
``&x``, ``&x:k``
    Allocate and append to the list ``x``.
``*x``, ``*x:k``
    As ``+x``, but one tensor for the whole list.
``!x``, ``!x:k``
    Allocate state, which stays.
``-x``
    ``x`` lets go of what it holds; a list from its last tensor to its first.
``y=x``
    ``y`` takes over what ``x`` holds, and what ``y`` held dies.
``y<x``
    ``y`` takes over the last tensor of the list ``x``.

When the function returns, what names still hold dies in the order in which the program first writes them.

Kinds: ``n`` the parameter's bytes (default), ``b`` a mask of one byte per element, ``s`` one element of the
parameter's type, ``f`` one element of float32; ``w`` and ``v`` as ``n`` and ``s`` in float32 at least; ``h``
two bytes and ``q`` four per element; ``z`` two bytes; ``r``, ``c``, ``m`` the parameter without one, the other
and both of the two dimensions that a factored second moment is split by; ``g`` the smaller dimension of a
matrix, squared, in two bytes per element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from cnnlive._types import I64, Columns, frozen
from cnnlive.errors import AttributeValueError, close_names

__all__ = [
    "OPTIMIZERS",
    "Optimizer",
    "StepTrace",
    "host_state_bytes",
    "read_optimizer",
    "state_blocks",
    "state_from_construction",
    "step_trace",
]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """An optimizer, described: what of it decides about memory.

    Attributes
    ----------
    name : str
        One of `OPTIMIZERS`.
    options : tuple of (str, value)
        Every option that changes what a step allocates, sorted by name, defaults filled in.
    implementation : str
        ``"single"``, ``"foreach"`` or ``"fused"``.
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    implementation: str

    def __getitem__(self, option: str) -> Any:
        """Return the value of an option."""
        for name, value in self.options:
            if name == option:
                return value
        allowed = ", ".join(name for name, _ in self.options)
        raise AttributeValueError(f"optimizer {self.name} has no option {option!r}; it has: {allowed}")


@dataclass(frozen=True, slots=True, eq=False)
class StepTrace(Columns):
    """The tensors that one step of an optimizer makes on the device, and when they come and go.

    Attributes
    ----------
    nbytes : (n_blocks,) int64, bytes
        Of each block, in the order of allocation; not rounded.
    events : (n_events,) int64
        ``b + 1`` allocates block ``b``, ``-(b + 1)`` frees it.
    kept : (n_blocks,) int64
        1 for state, which outlives the step (made in a first step only), 0 for temporaries.
    """

    nbytes: I64
    events: I64
    kept: I64


# ------------------------------------------------------------------ programs


@dataclass(frozen=True, slots=True)
class _Case:
    """What the text of a program depends on, besides the parameters."""

    rule: Optimizer
    cpu: bool
    first: bool
    late: bool

    def __getitem__(self, option: str) -> Any:
        return self.rule[option]

    @property
    def foreach(self) -> bool:
        return self.rule.implementation == "foreach"

    @property
    def fused(self) -> bool:
        return self.rule.implementation == "fused"

    def host(self, text: str) -> str:
        """Return what PyTorch allocates on the host; it counts where the host is the device."""
        return text if self.cpu else ""

    @property
    def step(self) -> str:
        """The state ``step``: on the device where the step reads it there, else on the host."""
        options = dict(self.rule.options)
        return "!step:f" if self.cpu or self.fused or options.get("capturable") else ""

    @property
    def tick(self) -> str:
        """Count the steps of a list: steps on the host are added a scalar made for it."""
        return self.host("*one:f -one")

    @property
    def _gradient_changes(self) -> tuple[bool, bool]:
        """Whether the gradient is negated, and whether it is decayed out of place."""
        options = dict(self.rule.options)
        coupled = not options.get("decoupled_weight_decay")
        return options.get("maximize", False), coupled and options.get("weight_decay", 0) != 0

    def gradient(self, *, decays: bool = True, rebound: bool = False) -> str:
        """Bind ``grad`` of one parameter: as it stands, negated, or with weight decay added.

        Where it is `rebound` the loop binds the gradient as it stands before it negates it.
        """
        negated, decayed = self._gradient_changes
        bound = "-grad +grad" if rebound else "+grad"
        return (bound if negated else "-grad") + (" +grad" if decayed and decays else "")

    def gradients(self, *, decays: bool = True, ticks: str = "between") -> str:
        """Bind the list ``grad``, and count the steps before the weight decay or ``"first"`` of all."""
        negated, decayed = self._gradient_changes
        first, between = (self.tick, "") if ticks == "first" else ("", self.tick if ticks == "between" else "")
        decay = "+grad" if decayed and decays and not negated else ""  # a negated list is decayed in place
        return f"-grad {first} {'+grad' if negated else ''} {between} {decay}"

    @property
    def changed(self) -> bool:
        """Whether the list ``grad`` is the optimizer's own."""
        return any(self._gradient_changes)


class _Program(NamedTuple):
    """Sections of text: state first, then the body, which runs once per group of parameters.

    A section ``(scope, text)`` runs for each parameter in turn (``"each"``) or once for the list of all
    (``"list"``). A text may depend on the class of the parameter: then it is one text per class.
    """

    state: str | tuple[str, ...]
    body: tuple[tuple[str, str | tuple[str, ...]], ...]
    grouped: str = "no"  # lists: "no" one group, "dtype" by data type, "class" by data type and class
    made: str = "before"  # when a first step makes the state: "before" the body, "inside" it, at "construction"
    order: str = ""  # names, where they die in another order than they are first written


def _sgd(c: _Case) -> _Program:
    state = "!momentum_buffer" if c["momentum"] != 0 else ""
    if c.fused:
        return _Program(state, ())
    first = state if c.first else ""  # a clone of the gradient, not zeros made before
    if c.foreach:
        rest = "-grad" if state and not c["nesterov"] else ""
        body = (("list", c.gradients(ticks="never")), ("each", first), ("list", rest))
        return _Program(state, body, grouped="dtype", made="inside")
    looked = ("+grad" if c["nesterov"] else "-grad") if state else ""
    return _Program(state, (("each", f"{c.gradient()} {first} {looked}"),), made="inside")


def _adam(c: _Case) -> _Program:
    state = f"{c.step} !exp_avg !exp_avg_sq" + (" !max_exp_avg_sq" if c["amsgrad"] else "")
    if c.fused:
        return _Program(state, ())
    if c.foreach:
        scalars = "+one:f +two:f size=one root2=two" if c["capturable"] else ""
        return _Program(state, (("list", f"{c.gradients()} -grad {scalars} +root"),), grouped="dtype")
    if c["capturable"]:
        larger = "+t -t" if c["amsgrad"] else ""
        text = f"""{c.gradient()} +t:f +u:f -t correction1=u +t:f +u:f -t correction2=u +t:f +u:f -t size=u +negative:f
            +root2:f {larger} +t +u:f +v -t -u +t:f +u:f -t -u denom=v"""
        return _Program(state, (("each", text),))
    return _Program(state, (("each", f"{c.gradient()} +t +u -t denom=u"),))


def _nadam(c: _Case) -> _Program:
    state = f"{c.step} {c.host('!mu_product:f')} !exp_avg !exp_avg_sq"
    if c.foreach:
        return _Program(state, (("list", f"{c.gradients()} +root"),), grouped="dtype")
    return _Program(state, (("each", f"{c.gradient()} +t +u -t denom=u"),))


def _radam(c: _Case) -> _Program:
    state = f"{c.step} !exp_avg !exp_avg_sq"
    if c.foreach:
        return _Program(state, (("list", f"{c.gradients(ticks='first')} -grad +buffer"),), grouped="dtype")
    # The variance is rectified from the sixth step on.
    rectified = "+s +q +d -q -s +e -t -d +t -e -t" if c.late else "-t"
    return _Program(state, (("each", f"{c.gradient()} +corrected +t {rectified}"),))


def _adamax(c: _Case) -> _Program:
    state = f"{c.step} !exp_avg !exp_inf"
    if c.foreach:
        magnitude = "" if c.changed else "+grad"
        scaled = "+corrections:f +denom" if c["capturable"] else ""
        return _Program(state, (("list", f"{c.gradients()} {magnitude} {scaled}"),), grouped="dtype")
    scaled = "+t:f +u:f -t negative=u +denom" if c["capturable"] else ""
    return _Program(state, (("each", f"{c.gradient(rebound=True)} +t -t {scaled}"),))


def _adagrad(c: _Case) -> _Program:
    state = f"{c.step} !sum"
    if c.fused:
        return _Program(state, (), made="construction")
    if c.foreach:
        text = f"{c.gradients()} +std {'numerator=grad' if c.changed else '+numerator'}"
        return _Program(state, (("list", text),), grouped="dtype", made="construction", order="std numerator")
    return _Program(state, (("each", f"{c.gradient(rebound=True)} +std"),), made="construction")


def _adadelta(c: _Case) -> _Program:
    state = f"{c.step} !square_avg !acc_delta"
    if c.foreach:
        return _Program(state, (("list", f"{c.gradients(ticks='first')} +std +delta"),), grouped="dtype")
    return _Program(state, (("each", f"{c.gradient(rebound=True)} +std +delta"),))


def _rmsprop(c: _Case) -> _Program:
    state = f"{c.step} !square_avg"
    if c["momentum"] > 0:
        state += " !momentum_buffer"
    if c["centered"]:
        state += " !grad_avg"
    if c.foreach:
        return _Program(state, (("list", f"{c.gradients()} +avg"),), grouped="dtype")
    return _Program(state, (("each", f"{c.gradient(rebound=True)} +avg"),))


def _rprop(c: _Case) -> _Program:
    state = f"{c.step} !prev !step_size"
    where = "+m:b +v:s +w -v -m -w"
    mask = where if c["capturable"] else f"+m:b {c.host('+v:s -v')} -m"
    masks = f"{mask} {mask} {mask}"
    if c.foreach:
        body = (
            ("list", f"{c.tick} +signs -sign"),
            ("each", masks),
            ("list", "sign<signs"),
            ("each", where),
            ("list", "-signs"),
            ("each", "&grad_signs"),
            ("list", "grads=grad_signs"),
        )
        return _Program(state, body, grouped="dtype", order="sign grads")
    text = f"{c.gradient(decays=False, rebound=True)} +t +u -t sign=u {masks} +grad {mask} +t -t"
    return _Program(state, (("each", text),))


def _asgd(c: _Case) -> _Program:
    # The step counts where the parameter lives, and so do eta and mu.
    state = "!step:f +t:f !eta:f -t !mu:f !ax"
    if c.foreach:
        added = "" if c["weight_decay"] != 0 and c["maximize"] else "+sum -sum"
        sums = f"{c.gradients(decays=False)} {added} +sum -sum"
        if c["capturable"]:
            return _Program(state, (("list", f"{sums} +mus:f -mus +etas:f"),), grouped="dtype")
        body = (
            ("list", sums),
            ("each", "+t:f +u:f -t +v:f -u +w:f &new_etas:f -w -v"),
            ("list", "etas=new_etas"),
            ("each", "&new_mus:f"),
            ("list", "mus=new_mus"),
        )
        return _Program(state, body, grouped="dtype")
    if c["capturable"]:
        power = "+t:f +u:f -t +v:f -u +w:f +x:f -w -v -x"
        rest = f"+t:f +u:f -u -t +t -t {power} +t:f +u:f +v:f -u -t +w:f +x:f -w -x -v"
    else:
        rest = c.host("+new_eta:f +new_mu:f")
    return _Program(state, (("each", f"{c.gradient(rebound=True)} {rest}"),))


def _adafactor(c: _Case) -> _Program:
    state = (f"{c.step} !variance", f"{c.step} !row_var:r !col_var:c")
    if c.foreach:
        body = (
            ("list", c.gradients(decays=False)),
            ("each", "+t:s -t"),
            ("each", ("", "&row_means:r")),
            ("list", ("", "-row_means")),
            ("each", ("", "&col_means:c")),
            ("list", ("", "-col_means")),
            ("each", ("", "&estimates")),
            ("each", ("", "&means:m")),
            ("list", ("+squared -squared", "-means")),
            ("each", ("&estimates", "")),
            ("list", "updates=estimates"),
            ("each", "+t:s -t"),
        )
        return _Program(state, body, grouped="class")
    moments = ("+squared +t", "+row_mean:r +col_mean:c +t +u:m -u")
    text = tuple(f"{c.gradient(decays=False)} +u:s -u {moment} update=t +u:s -u" for moment in moments)
    return _Program(state, (("each", text),), order="grad row_mean col_mean squared update")


def _adafactor_timm(c: _Case) -> _Program:
    momentum = c["betas"] is not None
    average = "!exp_avg:w" if momentum else ""
    squares = (f"{average} !exp_avg_sq:w", f"{average} !exp_avg_sq_row:r !exp_avg_sq_col:c")
    if not momentum:
        looked = ""
    elif c["caution"]:
        looked = "+t:w +u:b -t +v:w -u mask=v +t:v -t +update:w"
    else:
        looked = "-update"
    moments = ("+update:w", "+t:r -t +t:c -t +t:m +u:r -t +v:c +w:w -u -v update=w")
    text = []
    for half in (False, True):
        copies = ("-grad +grad:w", "-copy +copy:w") if half else ("-grad", "-copy")
        for square, moment in zip(squares, moments, strict=True):
            # The norm of the parameter is state too; a later step makes it anew and lets the old one go.
            norm = "+t:v !rms:v -t" if c.first else "+t:v +u:v -t -u"
            text.append(
                f"{copies[0]} {square if c.first else ''} {copies[1]} {norm} +t:w +u:w -t update=u {moment} "
                f"+t:v +u:v -t +q:v -u -q {looked} +t:w -t"
            )
    state = tuple(f"{square} !rms:v" for square in squares) * 2
    return _Program(state, (("each", tuple(text)),), made="inside", order="grad copy update mask")


def _adafactor_bv(c: _Case) -> _Program:
    momentum = c["momentum"] is not None
    average = f"!exp_avg:{'q' if c['momentum_dtype'] == 'float32' else 'h'}" if momentum else ""
    state = tuple(
        f"{c.host('!step:f')} {second} {average}" for second in ("!exp_avg_sq", "!exp_avg_sq_r:r !exp_avg_sq_c:c")
    )
    moments = ("+t +u -t update=u", "+t:r -t +t:c -t +mean:m +t:r +u:r -t row=u +col:c +t +u -t update=u")
    clip = "+t:s +u:s -t rms=u +t:s -t" if c["clipping_threshold"] is not None else ""
    text = []
    for same in (False, True):  # the momentum has the type of the gradient
        looked = ("+update" if same else "+t:h -t +update") if momentum else ""
        if not same and c["momentum_dtype"] == "float32":
            looked = looked.replace(":h", ":q")
        if momentum and c["caution"]:
            looked += " +t +u:b -t +v -u mask=v +t:s -t"
        text += [f"+t +u -t squares=u {moment} {clip} {looked}" for moment in moments]
    order = "squares mean row col update rms mask"
    return _Program(state * 2, (("each", tuple(text)),), order=order)


def _lion(c: _Case) -> _Program:
    if not c.foreach:
        mask = "+t +u:b -t +v -u mask=v +t:s -t" if c["caution"] else ""
        return _Program("!exp_avg", (("each", f"{c.gradient(decays=False)} +update {mask}"),))
    body: tuple[tuple[str, str], ...] = (("list", f"{'+grad' if c['maximize'] else ''} +update"),)
    if c["caution"]:
        body += (("list", "+masks"), ("each", "+t:b &kept -t"), ("list", "masks=kept"), ("each", "&scale:s"))
    # Every chunk is a call of its own: all names let go.
    body += (("list", "-grad -update -masks -scale"),)
    return _Program("!exp_avg", body, grouped="chunk")


def _muon(c: _Case) -> _Program:
    # Five Newton-Schulz iterations in bfloat16, by default.
    turn = "+gram:g +update2:g +ortho:h "
    start = "+update" if c["nesterov"] else "-update"
    text = f"{start} +ortho:h +t:z +u:z -t -u {turn * c['ns_steps']} -gram -update2 update=ortho"
    return _Program("!momentum_buffer", (("each", text),))


# ------------------------------------------------------------------ what can be asked for


class _Rule(NamedTuple):
    """An optimizer's options with their defaults, and what it can do."""

    program: Callable[[_Case], _Program]
    options: Mapping[str, Any]
    implementations: tuple[str, ...] = ("single", "foreach")
    others: tuple[str, ...] = ()  # options of PyTorch that change no byte
    default: str = ""  # the implementation on any device, where that is not the device's


_ALL: Final = ("single", "foreach", "fused")
_ADAM: Final = {"weight_decay": 0.0, "amsgrad": False, "maximize": False, "capturable": False}
_RULES: Final[Mapping[str, _Rule]] = {
    "sgd": _Rule(
        _sgd,
        {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False},
        _ALL,
    ),
    "adam": _Rule(_adam, {**_ADAM, "decoupled_weight_decay": False}, _ALL, ("betas", "eps")),
    "adamw": _Rule(_adam, {**_ADAM, "weight_decay": 0.01, "decoupled_weight_decay": True}, _ALL, ("betas", "eps")),
    "nadam": _Rule(
        _nadam,
        {"weight_decay": 0.0, "decoupled_weight_decay": False, "maximize": False},
        others=("betas", "eps", "momentum_decay"),
    ),
    "radam": _Rule(
        _radam,
        {"weight_decay": 0.0, "decoupled_weight_decay": False, "maximize": False},
        others=("betas", "eps"),
    ),
    "adamax": _Rule(_adamax, {"weight_decay": 0.0, "maximize": False, "capturable": False}, others=("betas", "eps")),
    "adagrad": _Rule(
        _adagrad, {"weight_decay": 0.0, "maximize": False}, _ALL, ("lr_decay", "initial_accumulator_value", "eps")
    ),
    "adadelta": _Rule(_adadelta, {"weight_decay": 0.0, "maximize": False, "capturable": False}, others=("rho", "eps")),
    "rmsprop": _Rule(
        _rmsprop,
        {"weight_decay": 0.0, "momentum": 0.0, "centered": False, "maximize": False, "capturable": False},
        others=("alpha", "eps"),
    ),
    "rprop": _Rule(_rprop, {"maximize": False, "capturable": False}, others=("etas", "step_sizes")),
    "asgd": _Rule(
        _asgd, {"weight_decay": 0.0, "maximize": False, "capturable": False}, others=("lambd", "alpha", "t0")
    ),
    "adafactor": _Rule(
        _adafactor, {"weight_decay": 0.0, "maximize": False}, others=("beta2_decay", "eps", "d"), default="single"
    ),
    "adafactor_timm": _Rule(
        _adafactor_timm,
        {"betas": None, "weight_decay": 0.0, "min_dim_size_to_factor": 16, "caution": False},
        ("single",),
        ("eps", "eps_scale", "clip_threshold", "decay_rate"),
        "single",
    ),
    "adafactor_bv": _Rule(
        _adafactor_bv,
        {
            "momentum": 0.9,
            "momentum_dtype": "bfloat16",
            "weight_decay": 0.0,
            "min_dim_size_to_factor": 16,
            "clipping_threshold": None,
            "caution": False,
        },
        ("single",),
        ("decay_rate", "decay_offset", "beta2_cap", "eps", "unscaled_wd"),
        "single",
    ),
    "lion": _Rule(
        _lion, {"weight_decay": 0.0, "maximize": False, "caution": False, "chunk_elements": 0}, others=("betas",)
    ),
    "muon": _Rule(
        _muon,
        {"weight_decay": 0.1, "momentum": 0.95, "nesterov": True, "ns_steps": 5},
        ("single",),
        ("ns_coefficients", "eps", "adjust_lr_fn"),
        "single",
    ),
}
#: Names that `read_optimizer` knows.
OPTIMIZERS: Final = tuple(_RULES)
_DEVICES: Final = {"cpu": "single", "cuda": "foreach"}
_MOMENTUM_DTYPES: Final = ("float32", "float16", "bfloat16")


def _check_device(device: object) -> str:
    if not isinstance(device, str) or device not in _DEVICES:
        raise AttributeValueError(f"device {device!r} of an optimizer; allowed: {', '.join(_DEVICES)}")
    return device


def read_optimizer(
    optimizer: str | Optimizer, *, device: str = "cuda", implementation: str | None = None, **options: Any
) -> Optimizer:
    """Describe an optimizer by its name and options.

    Parameters
    ----------
    optimizer : str or Optimizer
        One of `OPTIMIZERS`: those of ``torch.optim`` in lower case, ``"lion"``, ``"adafactor_timm"`` and
        ``"adafactor_bv"`` of timm. A description is taken over; options and implementation given beside it
        replace its own.
    device : str
        ``"cpu"`` or ``"cuda"``; decides the default implementation.
    implementation : str, optional
        ``"single"`` (one parameter after the other), ``"foreach"`` (lists) or ``"fused"`` (one kernel). Default:
        what PyTorch takes by itself, ``"foreach"`` on CUDA and ``"single"`` on the CPU, save for Adafactor and
        Muon, which are always single.
    **options
        The optimizer's own, with PyTorch's names and defaults. Those that change no byte (``lr``, ``eps``,
        ``betas`` and the like) are accepted and dropped. ``chunk_elements`` of Lion, not an argument of timm's,
        is the largest number of elements in one chunk of its foreach implementation; timm derives it from the
        size of the device's cache. 0 (default) does not cut.

    Returns
    -------
    Optimizer

    Raises
    ------
    AttributeValueError
        If the optimizer, the device, the implementation, an option or its value is unknown; the message says
        what is allowed.

    Examples
    --------
    >>> read_optimizer("sgd", momentum=0.9).implementation
    'foreach'
    >>> read_optimizer("adam", device="cpu", amsgrad=True)["amsgrad"]
    True
    """
    _check_device(device)
    given: dict[str, Any] = {}
    if isinstance(optimizer, Optimizer):
        name, given = optimizer.name, dict(optimizer.options)
        implementation = implementation or optimizer.implementation
    else:
        name = optimizer
    if not isinstance(name, str) or name not in _RULES:
        near = close_names(name, OPTIMIZERS)
        raise AttributeValueError(f"unknown optimizer {name!r}; allowed: {', '.join(OPTIMIZERS)}{near}")
    rule = _RULES[name]
    if implementation is None:
        implementation = rule.default or _DEVICES[device]
    if implementation not in rule.implementations:
        allowed = ", ".join(rule.implementations)
        raise AttributeValueError(f"implementation {implementation!r} of optimizer {name}; allowed: {allowed}")
    values = {**rule.options, **given}
    for option, value in options.items():
        if option in rule.options:
            values[option] = _option(name, option, value, rule.options[option])
        elif option != "lr" and option not in rule.others:
            known = [*rule.options, "lr", *rule.others]
            near = close_names(option, known)
            raise AttributeValueError(f"option {option!r} of optimizer {name}; allowed: {', '.join(known)}{near}")
    if name == "sgd" and values["nesterov"] and (values["momentum"] <= 0 or values["dampening"] != 0):
        raise AttributeValueError("option 'nesterov' of optimizer sgd needs a momentum above 0 and no dampening")
    if name == "lion" and values["chunk_elements"] and implementation != "foreach":
        raise AttributeValueError("option 'chunk_elements' of optimizer lion is one of its foreach implementation")
    return Optimizer(name, tuple(sorted(values.items())), implementation)


def _option(name: str, option: str, value: Any, default: Any) -> Any:
    """Check one value against the kind of its default."""
    what = f"option {option!r} of optimizer {name} is {value!r}; allowed: "
    if option == "betas":
        if value is None:
            return None
        what += "None, or a pair of numbers in [0, 1)"
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise AttributeValueError(what)
        return tuple(_number(beta, what, below=1.0) for beta in value)
    if option == "momentum_dtype":
        text = str(value).rpartition(".")[2]
        if text not in _MOMENTUM_DTYPES:
            raise AttributeValueError(what + ", ".join(_MOMENTUM_DTYPES))
        return text
    if isinstance(default, bool):
        if value not in (False, True):
            raise AttributeValueError(what + "True or False")
        return bool(value)
    if isinstance(default, int):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
            raise AttributeValueError(what + "a whole number, 0 or more")
        return value
    if value is None and name == "adafactor_bv":
        return None
    return _number(value, what + "a number, 0 or more")


def _number(value: Any, wrong: str, below: float = math.inf) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise AttributeValueError(wrong) from None
    if isinstance(value, bool) or not 0 <= number < below:
        raise AttributeValueError(wrong)
    return number


# ------------------------------------------------------------------ parameters

_HALF: Final = 2


class _Parameter(NamedTuple):
    """A parameter as programs see it: its class, and the bytes of each kind of tensor made for it."""

    cls: int
    itemsize: int
    elements: int
    sizes: Mapping[str, int]


def _split(name: str, smallest: int, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the two dimensions that a second moment is factored by; None where it is not."""
    if name == "adafactor":
        return (len(shape) - 2, len(shape) - 1) if len(shape) > 1 else None
    if name == "adafactor_timm":
        if len(shape) > 2 and min(shape[:2]) > smallest:
            return 0, 1
        return (len(shape) - 2, len(shape) - 1) if len(shape) > 1 and min(shape[-2:]) > smallest else None
    if name == "adafactor_bv" and len(shape) > 1:
        largest = sorted(range(len(shape)), key=lambda d: (shape[d], d))[-2:]
        return (largest[0], largest[1]) if shape[largest[0]] >= smallest else None
    return None


@lru_cache(maxsize=4096)
def _parameter(rule: Optimizer, shape: tuple[int, ...], itemsize: int) -> _Parameter:
    name = rule.name
    elements = math.prod(shape)
    full = max(itemsize, 4)
    base = full if name == "adafactor_timm" else itemsize
    cls = 0
    sizes = {
        "n": elements * itemsize,
        "b": elements,
        "s": itemsize,
        "f": 4,
        "w": elements * full,
        "v": full,
        "h": elements * 2,
        "q": elements * 4,
        "z": 2,
    }
    if name == "muon":
        sizes["g"] = min(shape) ** 2 * 2
    if name in ("adafactor", "adafactor_timm", "adafactor_bv"):
        split = _split(name, dict(rule.options).get("min_dim_size_to_factor", 0), shape)
        if split is not None:
            cls = 1
            one, other = split
            sizes["r"] = math.prod(d for k, d in enumerate(shape) if k != other) * base
            sizes["c"] = math.prod(d for k, d in enumerate(shape) if k != one) * base
            sizes["m"] = math.prod(d for k, d in enumerate(shape) if k not in split) * base
    if name == "adafactor_timm" and itemsize == _HALF:
        cls += 2
    if name == "adafactor_bv" and itemsize == (4 if rule["momentum_dtype"] == "float32" else _HALF):
        cls += 2
    return _Parameter(cls, itemsize, elements, sizes)


def _parameters(rule: Optimizer, shapes: Sequence[tuple[int, ...]], itemsizes: Sequence[int]) -> list[_Parameter]:
    if len(shapes) != len(itemsizes):
        raise AttributeValueError(f"{len(shapes)} shapes of parameters with {len(itemsizes)} sizes of their elements")
    if rule.name == "muon":
        for k, (shape, itemsize) in enumerate(zip(shapes, itemsizes, strict=True)):
            if len(shape) != 2:
                raise AttributeValueError(f"optimizer muon takes matrices only; parameter {k} has shape {tuple(shape)}")
            if itemsize == _HALF:
                raise AttributeValueError(f"optimizer muon is known for float32 and float64; parameter {k} has 2 bytes")
    make = _parameter
    return [make(rule, shape, int(itemsize)) for shape, itemsize in zip(map(tuple, shapes), itemsizes, strict=True)]


# ------------------------------------------------------------------ interpreter

_Code = tuple[tuple[str, str, str], ...]  # (instruction, name, kind or other name)


@lru_cache(maxsize=1024)
def _code(text: str) -> _Code:
    """Take a text apart."""
    code = []
    for word in text.split():
        if word[0] in "+*&!-":
            name, _, kind = word[1:].partition(":")
            code.append((word[0], name, kind or "n"))
        else:
            sign = "=" if "=" in word else "<"
            name, _, other = word.partition(sign)
            code.append((sign, name, other))
    return tuple(code)


@lru_cache(maxsize=256)
def _compiled(
    case: _Case,
) -> tuple[_Program, tuple[_Code, ...], tuple[tuple[str, tuple[_Code, ...]], ...], tuple[str, ...]]:
    """Return the program of a case, its state and body as code per class, and the names in order of death."""
    program = _RULES[case.rule.name].program(case)

    def classes(text: str | tuple[str, ...]) -> tuple[_Code, ...]:
        return tuple(_code(t) for t in ((text,) * 4 if isinstance(text, str) else text))

    body = tuple((scope, classes(text)) for scope, text in program.body if text)
    names: dict[str, None] = dict.fromkeys(program.order.split())
    for _, codes in body:
        for code in codes:
            names.update(dict.fromkeys(name for _, name, _ in code))
    return program, classes(program.state), body, tuple(names)


def _groups(program: _Program, case: _Case, parameters: list[_Parameter]) -> list[list[_Parameter]]:
    """Cut the parameters into the lists that one pass of the body takes."""
    if program.grouped == "no":
        return [parameters]
    if program.grouped == "chunk":
        limit = case["chunk_elements"]
        chunks: list[list[_Parameter]] = []
        total = 0
        for p in parameters:
            if not chunks or (limit and total + p.elements > limit):
                chunks.append([])
                total = 0
            chunks[-1].append(p)
            total += p.elements
        return chunks
    by: dict[int, dict[int, list[_Parameter]]] = {}
    for p in parameters:
        cls = p.cls if program.grouped == "class" else 0
        by.setdefault(p.itemsize, {}).setdefault(cls, []).append(p)
    # PyTorch's hash map yields the types from the last that appeared to the first.
    return [group for classes in reversed(by.values()) for group in classes.values()]


class _Machine:
    """Runs programs: the local variables, and the blocks made so far."""

    __slots__ = ("events", "held", "kept", "nbytes")

    def __init__(self) -> None:
        self.nbytes: list[int] = []
        self.events: list[int] = []
        self.kept: list[int] = []
        self.held: dict[str, list[int]] = {}

    def release(self, blocks: list[int]) -> None:
        self.events.extend([-b for b in reversed(blocks)])

    def allocate(self, nbytes: int, kept: int = 0) -> int:
        """Return the number of a new block, from 1."""
        self.nbytes.append(nbytes)
        self.kept.append(kept)
        block = len(self.nbytes)
        self.events.append(block)
        return block

    def run(self, code: _Code, parameters: Sequence[_Parameter]) -> None:
        """Run a text on a list of parameters."""
        held = self.held
        for instruction, name, other in code:
            if instruction in "+*":
                some = parameters if instruction == "+" else parameters[:1]
                made = [self.allocate(p.sizes[other]) for p in some]
                if held.get(name):
                    self.release(held[name])
                held[name] = made
            elif instruction == "-":
                if held.get(name):
                    self.release(held[name])
                    held[name] = []
            elif instruction == "=":
                if held.get(name):
                    self.release(held[name])
                held[name] = held.get(other, [])
                held[other] = []
            elif instruction == "!":
                for p in parameters:
                    self.allocate(p.sizes[other], 1)
            elif instruction == "&":
                held.setdefault(name, []).extend([self.allocate(p.sizes[other]) for p in parameters])
            else:
                held[name] = [held[other].pop()]

    def trace(self) -> StepTrace:
        return StepTrace(*(frozen(np.array(x, dtype=np.int64)) for x in (self.nbytes, self.events, self.kept)))


def step_trace(
    rule: Optimizer,
    shapes: Sequence[tuple[int, ...]],
    itemsizes: Sequence[int],
    *,
    device: str,
    first: bool,
    late: bool = False,
) -> StepTrace:
    """Trace one step: which tensors it makes on the device, and in which order they come and go.

    A tensor is what an operator of PyTorch's dispatcher returns; scratch inside a kernel is not counted, nor are
    the Python numbers that the CPU wraps in tensors of 8 bytes for the time of one operator. Scalars that
    PyTorch makes on the host count for ``device="cpu"`` only. Parameters, gradients and the state of earlier
    steps are there already and not in the trace.

    Parameters
    ----------
    rule : Optimizer
    shapes : sequence of shapes
        Of the parameters that have a gradient, in the order of ``model.parameters()``, gradients dense.
    itemsizes : sequence of int
        Bytes of one element of each.
    device : str
        ``"cpu"`` or ``"cuda"``.
    first : bool
        The first step, which makes the state; `StepTrace.kept` marks it. Adagrad makes its state when it is
        constructed (`state_from_construction`): then no block is marked.
    late : bool
        RAdam's sixth step and later ones, which rectify the variance; other optimizers: no difference.

    Returns
    -------
    StepTrace

    Raises
    ------
    AttributeValueError
        If the device is unknown, the optimizer cannot take a parameter (Muon: matrices only), or an option is
        for CUDA only (``capturable``).

    Notes
    -----
    Follows the Python loops of ``torch.optim`` in PyTorch 2.13 and 2.14 and of ``timm.optim`` in timm 1.0.31.
    Foreach lists of two data types are taken one after the other, the type that appears last first. ASGD is
    traced before its averaging starts (``t0``). O(parameters) time.
    """
    case, parameters = _case(rule, shapes, itemsizes, device, first=first, late=late)
    program, state, body, names = _compiled(case)
    machine = _Machine()
    if first and program.made == "before":
        for p in parameters:
            machine.run(state[p.cls], (p,))
    for group in _groups(program, case, parameters) if parameters else ():
        for scope, codes in body:
            if scope == "list":
                machine.run(codes[group[0].cls], group)
                continue
            for p in group:
                machine.run(codes[p.cls], (p,))
    for name in names:
        machine.release(machine.held.get(name, []))
    return machine.trace()


def state_blocks(rule: Optimizer, shapes: Sequence[tuple[int, ...]], itemsizes: Sequence[int], *, device: str) -> I64:
    """Return the bytes of each tensor of state that lives on the device, in order of creation.

    The scalars that count steps live on the host unless the optimizer is fused or capturable (ASGD: always on
    the device): they count, 4 bytes each, for ``device="cpu"`` only. Parameters and errors as for `step_trace`.
    """
    case, parameters = _case(rule, shapes, itemsizes, device, first=True, late=False)
    _, state, _, _ = _compiled(case)
    nbytes = [p.sizes[kind] for p in parameters for sign, _, kind in state[p.cls] if sign == "!"]
    return frozen(np.array(nbytes, dtype=np.int64))


def host_state_bytes(
    rule: Optimizer, shapes: Sequence[tuple[int, ...]], itemsizes: Sequence[int], *, device: str
) -> int:
    """Return the bytes of state that stays on the host although the parameters are on `device`.

    For ``"cuda"`` the scalars that count steps, where they are neither fused nor capturable; 0 for ``"cpu"``, where
    `state_blocks` has them. Parameters and errors as for `step_trace`.
    """
    if _check_device(device) == "cpu" or dict(rule.options).get("capturable"):
        return 0
    here, there = (int(state_blocks(rule, shapes, itemsizes, device=d).sum()) for d in ("cpu", device))
    return here - there


def state_from_construction(rule: Optimizer) -> bool:
    """Whether the state exists before the first step, from the optimizer's construction on (Adagrad)."""
    return _compiled(_Case(rule, cpu=True, first=True, late=False))[0].made == "construction"


def _case(
    rule: Optimizer,
    shapes: Sequence[tuple[int, ...]],
    itemsizes: Sequence[int],
    device: str,
    *,
    first: bool,
    late: bool,
) -> tuple[_Case, list[_Parameter]]:
    cpu = _check_device(device) == "cpu"
    if cpu and dict(rule.options).get("capturable"):
        raise AttributeValueError(f"option 'capturable' of optimizer {rule.name} is for device cuda only")
    return _Case(rule, cpu, first, late), _parameters(rule, shapes, itemsizes)
