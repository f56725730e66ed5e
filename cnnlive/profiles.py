"""Runtime profiles: the rules that differ between runtimes, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from cnnlive.errors import GraphError, UnknownProfileError, close_names

__all__ = ["INPLACE", "PROFILES", "Inplace", "Profile", "Takeover", "profile_of"]

Inplace = Literal["graph", "dead", "never"]
INPLACE: Final[tuple[str, ...]] = get_args(Inplace)


@dataclass(frozen=True, slots=True)
class Takeover:
    """When an op of a runtime writes into the bytes of an input that nobody wants afterwards.

    Attributes
    ----------
    ops : tuple of (str, tuple of int), or None
        Operators whose kernels do so, and into which inputs; the first that may be taken is. ``"depthwise"`` is a
        convolution with as many groups as channels, in and out. None: all that the operator table says could.
    fits : {"bytes", "shape", "smaller"}
        Input and output are of equal size; of equal shape as well; or the output may also be smaller: then the bytes
        that are left over are free once the op has run.
    alone : bool
        The input is read by this op only, however late in the order.
    over : int
        Bytes; the output has to be larger.
    from_inputs, to_outputs : bool
        The bytes may be those of an input of the network; the output may be one of the network.
    """

    ops: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    fits: Literal["bytes", "shape", "smaller"] = "bytes"
    alone: bool = False
    over: int = 0
    from_inputs: bool = False
    to_outputs: bool = False

    def __post_init__(self) -> None:
        """Refuse a way to fit that does not exist."""
        if self.fits not in FITS:
            raise GraphError(f"fits={self.fits!r}; allowed: {', '.join(map(repr, FITS))}")


FITS: Final[tuple[str, ...]] = ("bytes", "shape", "smaller")
BYTE_ORDER: Final = ("reshape", "flatten", "squeeze", "unsqueeze")
_REARRANGE: Final = ("split", "chunk", "slice", "permute", "transpose", "expand")


@dataclass(frozen=True, slots=True)
class Profile:
    """The rules of one runtime.

    Attributes
    ----------
    name, summary : str
    inplace : str
        ``"graph"``: an op overwrites its input where the graph says ``inplace=True``. ``"dead"``: also
        wherever an elementwise op may and the input has no later reader. ``"never"``.
    takeover : Takeover, optional
        The runtime's kernels decide which ops write into an input that dies, not the graph: its ``inplace=True`` is
        not looked at then.
    copies : tuple of str
        Operators that write bytes of their own here, although their output is a view of their input elsewhere.
    copies_at_ends : tuple of str
        Likewise where they read an input of the network or write an output of it.
    fuse : bool
        Convolution (or linear), batch normalisation and activation run as one op.
    activations : tuple of str, optional
        Activations that fusion takes in. None: all.
    bases : tuple of str
        Operators besides convolution and linear that take in an activation that follows, if `fuse`.
    pad_ops : bool
        A convolution or pool has padding of SAME or VALID only, as TensorFlow defines them; any other is an op of its
        own that runs before. See :meth:`cnnlive.Lowered.padded`.
    keeps_inputs : bool
        The caller holds the network's inputs to the end; otherwise they die after their last reader.
    counts_inputs : bool
        The network's inputs take part; otherwise they are somebody else's bytes, like stored parameters.
    pool_indices : bool
        Maximum pools allocate an int64 index per output element while they run, layer, group and instance
        normalisations two numbers for each group that they normalise.
    batch_counters : bool
        The int64 counter of each batch normalisation is stored beside its running statistics.
    frames : bool
        A value lives as long as a Python frame refers to it: what a module was given, until its call returns.
        See :meth:`cnnlive.Lowered.frames`. Defined for ops in program order only.
    reuses : bool
        An op that takes nothing over writes into a whole buffer that is dead, of the same shape and size of elements,
        the most recently freed first; such a buffer is held from its first to its last use. Inputs and outputs of the
        network have buffers of their own.
    dtypes : tuple of str
        Types that activations may have; () is any. Integers that a network was built with may stay.
    workspace : str
        What ops need besides, for the whole run: ``""`` nothing, or a rule of :func:`cnnlive.plan_inference`,
        ``"tinyengine"``.
    alignment : int
        Bytes; offsets of buffers in the arena are multiples of it.
    pads : bool
        Sizes of buffers are rounded up to the alignment before they are placed.
    placement : str
        How the runtime places buffers in its arena: a method of :func:`cnnlive.plan_arena`.
    """

    name: str
    summary: str
    inplace: Inplace = "graph"
    takeover: Takeover | None = None
    copies: tuple[str, ...] = ()
    copies_at_ends: tuple[str, ...] = ()
    fuse: bool = False
    activations: tuple[str, ...] | None = None
    bases: tuple[str, ...] = ()
    pad_ops: bool = False
    keeps_inputs: bool = False
    counts_inputs: bool = True
    pool_indices: bool = False
    batch_counters: bool = False
    frames: bool = False
    reuses: bool = False
    dtypes: tuple[str, ...] = ()
    workspace: str = ""
    alignment: int = 64
    pads: bool = False
    placement: str = "auto"

    def __post_init__(self) -> None:
        """Refuse rules that do not exist."""
        if self.inplace not in INPLACE:
            raise GraphError(f"inplace={self.inplace!r}; allowed: {', '.join(map(repr, INPLACE))}")
        if self.alignment < 1:
            raise GraphError(f"alignment={self.alignment!r}; allowed: 1 or more bytes")
        if self.workspace not in WORKSPACES:
            raise GraphError(f"workspace={self.workspace!r}; allowed: {', '.join(map(repr, WORKSPACES))}")
        if self.takeover is not None and self.inplace != "dead":
            raise GraphError(f"takeover with inplace={self.inplace!r}; allowed with it: 'dead'")


WORKSPACES: Final[tuple[str, ...]] = ("", "tinyengine")
_LITE_ACTIVATIONS: Final = ("relu", "relu6")
_LITE_BASES: Final = ("add", "sub", "mul", "div", "concat", "max_pool2d", "avg_pool2d")
_DEPTHWISE: Final = Takeover((("depthwise", (0,)),), fits="smaller", from_inputs=True, to_outputs=True)

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        p.name: p
        for p in (
            Profile(
                name="ideal",
                summary="liveness alone: a tensor is dropped after its last reader, the network's input too",
            ),
            Profile(
                name="torch",
                summary="eager PyTorch: a module's call keeps what it was given until it returns, the caller keeps "
                "the input, maximum pools allocate int64 indices",
                keeps_inputs=True,
                pool_indices=True,
                batch_counters=True,
                frames=True,
            ),
            Profile(
                name="torch_fx",
                summary="PyTorch running torch.fx code: values dropped after last use, the caller keeps the input, "
                "maximum pools allocate int64 indices",
                keeps_inputs=True,
                pool_indices=True,
                batch_counters=True,
            ),
            Profile(
                name="tflm",
                summary="TensorFlow Lite Micro: nothing in place, reshapes copy, padding other than SAME and VALID is "
                "an op, 16-byte alignment",
                inplace="never",
                copies=(*BYTE_ORDER, *_REARRANGE),
                fuse=True,
                activations=_LITE_ACTIVATIONS,
                bases=_LITE_BASES,
                pad_ops=True,
                alignment=16,
                pads=True,
                placement="tflm",
            ),
            Profile(
                name="tflite",
                summary="TensorFlow Lite (LiteRT) on the CPU: sums, products and softmax write into an input that "
                "nobody else reads, reshapes are views, inputs are preserved",
                inplace="dead",
                # lite/kernels: inplace_operator of add.cc, sub.cc, mul.cc, div.cc, activations.cc
                takeover=Takeover(
                    (("add", (0, 1)), ("sub", (0, 1)), ("mul", (0, 1)), ("div", (0, 1)), ("softmax", (0,))),
                    alone=True,
                    over=4,
                ),
                copies=_REARRANGE,
                copies_at_ends=BYTE_ORDER,
                fuse=True,
                activations=_LITE_ACTIVATIONS,
                bases=_LITE_BASES,
                pad_ops=True,
                keeps_inputs=True,
                placement="tflite",
            ),
            Profile(
                name="onnxruntime",
                summary="ONNX Runtime on the CPU: activations write into an input that dies, a dead buffer of the same "
                "shape is used again, inputs are the caller's and stay",
                inplace="dead",
                # core/providers/cpu: MayInplace of activations.cc, clip.cc, softmax.cc; sums have none
                takeover=Takeover(
                    tuple(
                        (op, (0,))
                        for op in (
                            *("relu", "leaky_relu", "elu", "selu", "sigmoid", "tanh", "softplus", "hardsigmoid"),
                            *("relu6", "clip", "softmax", "log_softmax"),
                        )
                    ),
                    fits="shape",
                ),
                copies=_REARRANGE,
                fuse=True,
                activations=("relu", "relu6", "clip", "sigmoid", "tanh", "leaky_relu", "hardsigmoid"),
                keeps_inputs=True,
                reuses=True,
                alignment=256,
                pads=True,
                placement="onnxruntime",
            ),
            Profile(
                name="tinyengine",
                summary="TinyEngine: int8, a depthwise convolution works in its input, padding is fused, sums are not "
                "in place",
                inplace="dead",
                takeover=_DEPTHWISE,
                fuse=True,
                dtypes=("int8", "uint8"),
                workspace="tinyengine",
                alignment=1,
                placement="greedy_by_size_first_fit",
            ),
            Profile(
                name="unas",
                summary="the peak memory of uNAS: the network's input is not counted, a sum works in an input whose "
                "other readers are done",
                inplace="dead",
                takeover=Takeover((("add", (0, 1)), ("add_n", (0,))), fits="shape", to_outputs=True),
                fuse=True,
                counts_inputs=False,
                alignment=1,
            ),
            Profile(
                name="mcunet",
                summary="the figures of the MCUNet papers: int8, liveness with depthwise convolutions in place",
                inplace="dead",
                takeover=_DEPTHWISE,
                fuse=True,
                dtypes=("int8", "uint8"),
                alignment=1,
            ),
        )
    }
)


def profile_of(profile: str | Profile) -> Profile:
    """Look a profile up by name; a :class:`Profile` is returned as it is.

    Raises
    ------
    UnknownProfileError
        If no profile has that name.
    """
    if isinstance(profile, Profile):
        return profile
    found = PROFILES.get(profile)
    if found is None:
        hint = close_names(profile, PROFILES)
        raise UnknownProfileError(f"unknown profile {profile!r}{hint}; allowed: {', '.join(PROFILES)}")
    return found
