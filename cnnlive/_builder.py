"""Builder methods of :class:`cnnlive.Graph`: PyTorch's parameter names, one method per operator.

Each method adds one op and returns its output; attributes are read and shapes inferred at once. What each
operator does stands in ``docs/operators.md``, which is generated from the operator table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from cnnlive.graph import Tensor

__all__ = ["Builder"]

Ints: TypeAlias = int | Sequence[int]
Padding: TypeAlias = int | str | Sequence[int] | Sequence[Sequence[int]]


class Builder:
    """Mixin with a method per operator; :meth:`op` does the work."""

    def op(self, op: str, *inputs: Tensor, name: str | None = None, **attrs: Any) -> Any:
        """Add an op by name; see :meth:`cnnlive.Graph.op`."""
        raise NotImplementedError

    def _one(self, op: str, *inputs: Tensor, **attrs: Any) -> Tensor:
        """Add an op and return its first output."""
        result = self.op(op, *inputs, **attrs)
        return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]

    def _all(self, op: str, *inputs: Tensor, **attrs: Any) -> tuple[Tensor, ...]:
        """Add an op and return all its outputs."""
        result = self.op(op, *inputs, **attrs)
        return result if isinstance(result, tuple) else (result,)

    # ------------------------------------------------------------------ inputs and stored tensors

    def input(self, shape: Sequence[int], dtype: str = "float32", *, name: str | None = None) -> Tensor:
        """Add an input of the network; the first dimension is the batch."""
        return self._one("input", shape=shape, dtype=dtype, name=name)

    def parameter(
        self, shape: Sequence[int], dtype: str = "float32", *, trainable: bool = True, name: str | None = None
    ) -> Tensor:
        """Add a stored tensor used as an operand: a weight, never an activation."""
        return self._one("parameter", shape=shape, dtype=dtype, trainable=trainable, name=name)

    # ------------------------------------------------------------------ convolutions and matrices

    def conv1d(
        self,
        x: Tensor,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 1-D convolution."""
        return self._one(
            "conv1d",
            x,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            name=name,
        )

    def conv2d(
        self,
        x: Tensor,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 2-D convolution."""
        return self._one(
            "conv2d",
            x,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            name=name,
        )

    def conv3d(
        self,
        x: Tensor,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 3-D convolution."""
        return self._one(
            "conv3d",
            x,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            name=name,
        )

    def conv_transpose1d(
        self,
        x: Tensor,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 1-D transposed convolution."""
        return self._one(
            "conv_transpose1d",
            x,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            groups=groups,
            bias=bias,
            dilation=dilation,
            name=name,
        )

    def conv_transpose2d(
        self,
        x: Tensor,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 2-D transposed convolution."""
        return self._one(
            "conv_transpose2d",
            x,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            groups=groups,
            bias=bias,
            dilation=dilation,
            name=name,
        )

    def conv_transpose3d(
        self,
        x: Tensor,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 3-D transposed convolution."""
        return self._one(
            "conv_transpose3d",
            x,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            groups=groups,
            bias=bias,
            dilation=dilation,
            name=name,
        )

    def linear(self, x: Tensor, out_features: int, bias: bool = True, *, name: str | None = None) -> Tensor:
        """Add a fully connected layer over the last dimension."""
        return self._one("linear", x, out_features=out_features, bias=bias, name=name)

    def matmul(self, x: Tensor, y: Tensor, *, name: str | None = None) -> Tensor:
        """Add a matrix product."""
        return self._one("matmul", x, y, name=name)

    # ------------------------------------------------------------------ normalisation

    def batch_norm1d(
        self,
        x: Tensor,
        eps: float = 1e-5,
        affine: bool = True,
        track_running_stats: bool = True,
        use_running_stats: bool = False,
        *,
        inplace: bool = False,
        name: str | None = None,
    ) -> Tensor:
        """Add a batch normalisation."""
        return self._one(
            "batch_norm1d",
            x,
            eps=eps,
            affine=affine,
            track_running_stats=track_running_stats,
            use_running_stats=use_running_stats,
            inplace=inplace,
            name=name,
        )

    def batch_norm2d(
        self,
        x: Tensor,
        eps: float = 1e-5,
        affine: bool = True,
        track_running_stats: bool = True,
        use_running_stats: bool = False,
        *,
        inplace: bool = False,
        name: str | None = None,
    ) -> Tensor:
        """Add a batch normalisation."""
        return self._one(
            "batch_norm2d",
            x,
            eps=eps,
            affine=affine,
            track_running_stats=track_running_stats,
            use_running_stats=use_running_stats,
            inplace=inplace,
            name=name,
        )

    def batch_norm3d(
        self,
        x: Tensor,
        eps: float = 1e-5,
        affine: bool = True,
        track_running_stats: bool = True,
        use_running_stats: bool = False,
        *,
        inplace: bool = False,
        name: str | None = None,
    ) -> Tensor:
        """Add a batch normalisation."""
        return self._one(
            "batch_norm3d",
            x,
            eps=eps,
            affine=affine,
            track_running_stats=track_running_stats,
            use_running_stats=use_running_stats,
            inplace=inplace,
            name=name,
        )

    def instance_norm1d(
        self,
        x: Tensor,
        eps: float = 1e-5,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add an instance normalisation."""
        return self._one(
            "instance_norm1d", x, eps=eps, affine=affine, track_running_stats=track_running_stats, name=name
        )

    def instance_norm2d(
        self,
        x: Tensor,
        eps: float = 1e-5,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add an instance normalisation."""
        return self._one(
            "instance_norm2d", x, eps=eps, affine=affine, track_running_stats=track_running_stats, name=name
        )

    def instance_norm3d(
        self,
        x: Tensor,
        eps: float = 1e-5,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add an instance normalisation."""
        return self._one(
            "instance_norm3d", x, eps=eps, affine=affine, track_running_stats=track_running_stats, name=name
        )

    def layer_norm(
        self,
        x: Tensor,
        normalized_shape: Ints,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a layer normalisation over the trailing dimensions."""
        return self._one(
            "layer_norm",
            x,
            normalized_shape=normalized_shape,
            eps=eps,
            elementwise_affine=elementwise_affine,
            bias=bias,
            name=name,
        )

    def group_norm(
        self, x: Tensor, num_groups: int, eps: float = 1e-5, affine: bool = True, *, name: str | None = None
    ) -> Tensor:
        """Add a group normalisation."""
        return self._one("group_norm", x, num_groups=num_groups, eps=eps, affine=affine, name=name)

    def local_response_norm(
        self,
        x: Tensor,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a local response normalisation."""
        return self._one("local_response_norm", x, size=size, alpha=alpha, beta=beta, k=k, name=name)

    # ------------------------------------------------------------------ activations

    def relu(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add relu."""
        return self._one("relu", x, inplace=inplace, name=name)

    def relu6(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add relu6."""
        return self._one("relu6", x, inplace=inplace, name=name)

    def leaky_relu(
        self, x: Tensor, negative_slope: float = 0.01, inplace: bool = False, *, name: str | None = None
    ) -> Tensor:
        """Add leaky_relu."""
        return self._one("leaky_relu", x, negative_slope=negative_slope, inplace=inplace, name=name)

    def elu(self, x: Tensor, alpha: float = 1.0, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add elu."""
        return self._one("elu", x, alpha=alpha, inplace=inplace, name=name)

    def selu(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add selu."""
        return self._one("selu", x, inplace=inplace, name=name)

    def gelu(self, x: Tensor, approximate: str = "none", inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add gelu."""
        return self._one("gelu", x, approximate=approximate, inplace=inplace, name=name)

    def silu(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add silu."""
        return self._one("silu", x, inplace=inplace, name=name)

    def sigmoid(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add sigmoid."""
        return self._one("sigmoid", x, inplace=inplace, name=name)

    def tanh(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add tanh."""
        return self._one("tanh", x, inplace=inplace, name=name)

    def softplus(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add softplus."""
        return self._one("softplus", x, inplace=inplace, name=name)

    def mish(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add mish."""
        return self._one("mish", x, inplace=inplace, name=name)

    def hardsigmoid(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add hardsigmoid."""
        return self._one("hardsigmoid", x, inplace=inplace, name=name)

    def hardswish(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add hardswish."""
        return self._one("hardswish", x, inplace=inplace, name=name)

    def clip(
        self,
        x: Tensor,
        min: float | None = None,
        max: float | None = None,
        inplace: bool = False,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add clip."""
        return self._one("clip", x, min=min, max=max, inplace=inplace, name=name)

    def scale(
        self,
        x: Tensor,
        factor: float = 1.0,
        offset: float = 0.0,
        inplace: bool = False,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add x times a constant plus a constant."""
        return self._one("scale", x, factor=factor, offset=offset, inplace=inplace, name=name)

    def exp(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add exp."""
        return self._one("exp", x, inplace=inplace, name=name)

    def log(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add log."""
        return self._one("log", x, inplace=inplace, name=name)

    def sqrt(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add sqrt."""
        return self._one("sqrt", x, inplace=inplace, name=name)

    def abs(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add abs."""
        return self._one("abs", x, inplace=inplace, name=name)

    def neg(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add neg."""
        return self._one("neg", x, inplace=inplace, name=name)

    def reciprocal(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add reciprocal."""
        return self._one("reciprocal", x, inplace=inplace, name=name)

    def floor(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add floor."""
        return self._one("floor", x, inplace=inplace, name=name)

    def erf(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add erf."""
        return self._one("erf", x, inplace=inplace, name=name)

    def prelu(self, x: Tensor, num_parameters: int = 1, *, name: str | None = None) -> Tensor:
        """Add a ReLU with learned slopes."""
        return self._one("prelu", x, num_parameters=num_parameters, name=name)

    def softmax(self, x: Tensor, dim: int = -1, *, name: str | None = None) -> Tensor:
        """Add a softmax over one dimension."""
        return self._one("softmax", x, dim=dim, name=name)

    def log_softmax(self, x: Tensor, dim: int = -1, *, name: str | None = None) -> Tensor:
        """Add the logarithm of a softmax over one dimension."""
        return self._one("log_softmax", x, dim=dim, name=name)

    def dropout(self, x: Tensor, p: float = 0.5, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add a dropout of elements."""
        return self._one("dropout", x, p=p, inplace=inplace, name=name)

    def dropout2d(self, x: Tensor, p: float = 0.5, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add a dropout of whole 2-D channels."""
        return self._one("dropout2d", x, p=p, inplace=inplace, name=name)

    def dropout3d(self, x: Tensor, p: float = 0.5, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add a dropout of whole 3-D channels."""
        return self._one("dropout3d", x, p=p, inplace=inplace, name=name)

    def stochastic_depth(self, x: Tensor, p: float, mode: str = "row", *, name: str | None = None) -> Tensor:
        """Add a stochastic depth to a residual branch."""
        return self._one("stochastic_depth", x, p=p, mode=mode, name=name)

    # ------------------------------------------------------------------ pools

    def max_pool1d(
        self,
        x: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 1-D maximum pool; a stride of None is the kernel size."""
        return self._one(
            "max_pool1d",
            x,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            name=name,
        )

    def max_pool1d_with_indices(
        self,
        x: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
    ) -> tuple[Tensor, ...]:
        """Add a 1-D maximum pool that also gives the int64 positions of its maxima."""
        return self._all(
            "max_pool1d",
            x,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            return_indices=True,
            name=name,
        )

    def avg_pool1d(
        self,
        x: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 1-D mean pool; a stride of None is the kernel size."""
        return self._one(
            "avg_pool1d",
            x,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            name=name,
        )

    def adaptive_avg_pool1d(
        self, x: Tensor, output_size: int | Sequence[int | None] | None, *, name: str | None = None
    ) -> Tensor:
        """Add a 1-D mean pool to a given output size; None keeps the input's."""
        return self._one("adaptive_avg_pool1d", x, output_size=output_size, name=name)

    def adaptive_max_pool1d(
        self, x: Tensor, output_size: int | Sequence[int | None] | None, *, name: str | None = None
    ) -> Tensor:
        """Add a 1-D maximum pool to a given output size; None keeps the input's."""
        return self._one("adaptive_max_pool1d", x, output_size=output_size, name=name)

    def global_avg_pool1d(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Add a mean over all positions: an adaptive mean pool to size 1."""
        return self._one("adaptive_avg_pool1d", x, output_size=1, name=name)

    def global_max_pool1d(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Add a maximum over all positions: an adaptive maximum pool to size 1."""
        return self._one("adaptive_max_pool1d", x, output_size=1, name=name)

    def max_pool2d(
        self,
        x: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 2-D maximum pool; a stride of None is the kernel size."""
        return self._one(
            "max_pool2d",
            x,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            name=name,
        )

    def max_pool2d_with_indices(
        self,
        x: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
    ) -> tuple[Tensor, ...]:
        """Add a 2-D maximum pool that also gives the int64 positions of its maxima."""
        return self._all(
            "max_pool2d",
            x,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            return_indices=True,
            name=name,
        )

    def avg_pool2d(
        self,
        x: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 2-D mean pool; a stride of None is the kernel size."""
        return self._one(
            "avg_pool2d",
            x,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            name=name,
        )

    def adaptive_avg_pool2d(
        self, x: Tensor, output_size: int | Sequence[int | None] | None, *, name: str | None = None
    ) -> Tensor:
        """Add a 2-D mean pool to a given output size; None keeps the input's."""
        return self._one("adaptive_avg_pool2d", x, output_size=output_size, name=name)

    def adaptive_max_pool2d(
        self, x: Tensor, output_size: int | Sequence[int | None] | None, *, name: str | None = None
    ) -> Tensor:
        """Add a 2-D maximum pool to a given output size; None keeps the input's."""
        return self._one("adaptive_max_pool2d", x, output_size=output_size, name=name)

    def global_avg_pool2d(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Add a mean over all positions: an adaptive mean pool to size 1."""
        return self._one("adaptive_avg_pool2d", x, output_size=1, name=name)

    def global_max_pool2d(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Add a maximum over all positions: an adaptive maximum pool to size 1."""
        return self._one("adaptive_max_pool2d", x, output_size=1, name=name)

    def max_pool3d(
        self,
        x: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 3-D maximum pool; a stride of None is the kernel size."""
        return self._one(
            "max_pool3d",
            x,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            name=name,
        )

    def max_pool3d_with_indices(
        self,
        x: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        dilation: Ints = 1,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
    ) -> tuple[Tensor, ...]:
        """Add a 3-D maximum pool that also gives the int64 positions of its maxima."""
        return self._all(
            "max_pool3d",
            x,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            return_indices=True,
            name=name,
        )

    def avg_pool3d(
        self,
        x: Tensor,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 3-D mean pool; a stride of None is the kernel size."""
        return self._one(
            "avg_pool3d",
            x,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            name=name,
        )

    def adaptive_avg_pool3d(
        self, x: Tensor, output_size: int | Sequence[int | None] | None, *, name: str | None = None
    ) -> Tensor:
        """Add a 3-D mean pool to a given output size; None keeps the input's."""
        return self._one("adaptive_avg_pool3d", x, output_size=output_size, name=name)

    def adaptive_max_pool3d(
        self, x: Tensor, output_size: int | Sequence[int | None] | None, *, name: str | None = None
    ) -> Tensor:
        """Add a 3-D maximum pool to a given output size; None keeps the input's."""
        return self._one("adaptive_max_pool3d", x, output_size=output_size, name=name)

    def global_avg_pool3d(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Add a mean over all positions: an adaptive mean pool to size 1."""
        return self._one("adaptive_avg_pool3d", x, output_size=1, name=name)

    def global_max_pool3d(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Add a maximum over all positions: an adaptive maximum pool to size 1."""
        return self._one("adaptive_max_pool3d", x, output_size=1, name=name)

    # ------------------------------------------------------------------ arithmetic

    def add(self, x: Tensor, y: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add a sum with broadcasting; in place writes into `x`."""
        return self._one("add", x, y, inplace=inplace, name=name)

    def sub(self, x: Tensor, y: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add a difference with broadcasting; in place writes into `x`."""
        return self._one("sub", x, y, inplace=inplace, name=name)

    def mul(self, x: Tensor, y: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add a product with broadcasting; in place writes into `x`."""
        return self._one("mul", x, y, inplace=inplace, name=name)

    def div(self, x: Tensor, y: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add a quotient with broadcasting; in place writes into `x`."""
        return self._one("div", x, y, inplace=inplace, name=name)

    def minimum(self, x: Tensor, y: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add an element-wise minimum with broadcasting; in place writes into `x`."""
        return self._one("minimum", x, y, inplace=inplace, name=name)

    def maximum(self, x: Tensor, y: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add an element-wise maximum with broadcasting; in place writes into `x`."""
        return self._one("maximum", x, y, inplace=inplace, name=name)

    def pow(self, x: Tensor, y: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add a power with broadcasting; in place writes into `x`."""
        return self._one("pow", x, y, inplace=inplace, name=name)

    def add_n(self, tensors: Sequence[Tensor], *, name: str | None = None) -> Tensor:
        """Add a sum of any number of tensors in one op."""
        return self._one("add_n", *tensors, name=name)

    # ------------------------------------------------------------------ moving data

    def concat(self, tensors: Sequence[Tensor], dim: int = 1, *, name: str | None = None) -> Tensor:
        """Join tensors along one dimension."""
        return self._one("concat", *tensors, dim=dim, name=name)

    def split(self, x: Tensor, sizes: Ints, dim: int = 1, *, name: str | None = None) -> tuple[Tensor, ...]:
        """Cut along one dimension into pieces of the given sizes (an integer: all of that size)."""
        return self._all("split", x, sizes=sizes, dim=dim, name=name)

    def chunk(self, x: Tensor, chunks: int, dim: int = 1, *, name: str | None = None) -> tuple[Tensor, ...]:
        """Cut along one dimension into equal pieces, the last of which may be smaller."""
        return self._all("chunk", x, chunks=chunks, dim=dim, name=name)

    def slice(
        self,
        x: Tensor,
        dim: Ints,
        start: int | Sequence[int | None] | None = None,
        stop: int | Sequence[int | None] | None = None,
        step: Ints = 1,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Take a range of one or more dimensions, as Python slices do."""
        return self._one("slice", x, dim=dim, start=start, stop=stop, step=step, name=name)

    def gather(self, x: Tensor, index: Tensor, dim: int = 1, *, name: str | None = None) -> Tensor:
        """Take the entries of one dimension that an index names; for an index of one dimension, index_select."""
        return self._one("gather", x, index, dim=dim, name=name)

    def pad(self, x: Tensor, pad: Sequence[int], mode: str = "constant", *, name: str | None = None) -> Tensor:
        """Pad (or crop with negative counts): (left, right, top, bottom, ...), the last dimension first."""
        return self._one("pad", x, pad=pad, mode=mode, name=name)

    def reshape(self, x: Tensor, shape: Sequence[int], *, name: str | None = None) -> Tensor:
        """Give the same bytes another shape: 0 keeps a dimension, -1 is what remains."""
        return self._one("reshape", x, shape=shape, name=name)

    def flatten(self, x: Tensor, start_dim: int = 1, end_dim: int = -1, *, name: str | None = None) -> Tensor:
        """Join a range of dimensions into one."""
        return self._one("flatten", x, start_dim=start_dim, end_dim=end_dim, name=name)

    def squeeze(self, x: Tensor, dim: Ints | None = None, *, name: str | None = None) -> Tensor:
        """Drop dimensions of size 1; None: all but the batch."""
        return self._one("squeeze", x, dim=dim, name=name)

    def unsqueeze(self, x: Tensor, dim: Ints, *, name: str | None = None) -> Tensor:
        """Insert dimensions of size 1."""
        return self._one("unsqueeze", x, dim=dim, name=name)

    def permute(self, x: Tensor, dims: Sequence[int], *, name: str | None = None) -> Tensor:
        """Reorder the dimensions."""
        return self._one("permute", x, dims=dims, name=name)

    def transpose(self, x: Tensor, dim0: int, dim1: int, *, name: str | None = None) -> Tensor:
        """Swap two dimensions."""
        return self._one("transpose", x, dim0=dim0, dim1=dim1, name=name)

    def expand(self, x: Tensor, shape: Sequence[int], *, name: str | None = None) -> Tensor:
        """Repeat dimensions of size 1 without copying; 0 or -1 keeps a dimension."""
        return self._one("expand", x, shape=shape, name=name)

    def contiguous(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Copy into memory order."""
        return self._one("contiguous", x, name=name)

    def channel_shuffle(self, x: Tensor, groups: int, *, name: str | None = None) -> Tensor:
        """Interleave groups of channels."""
        return self._one("channel_shuffle", x, groups=groups, name=name)

    def pixel_shuffle(self, x: Tensor, upscale_factor: int, *, name: str | None = None) -> Tensor:
        """Move channels into space."""
        return self._one("pixel_shuffle", x, upscale_factor=upscale_factor, name=name)

    def pixel_unshuffle(self, x: Tensor, downscale_factor: int, *, name: str | None = None) -> Tensor:
        """Move space into channels."""
        return self._one("pixel_unshuffle", x, downscale_factor=downscale_factor, name=name)

    def interpolate(
        self,
        x: Tensor,
        size: Ints | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        *,
        name: str | None = None,
    ) -> Tensor:
        """Resize to a size or by a factor; one number serves all spatial dimensions."""
        return self._one("interpolate", x, size=size, scale_factor=scale_factor, mode=mode, name=name)

    def mean(self, x: Tensor, dim: Ints | None = None, keepdim: bool = False, *, name: str | None = None) -> Tensor:
        """Mean over dimensions; None: all but the batch."""
        return self._one("mean", x, dim=dim, keepdim=keepdim, name=name)

    def sum(self, x: Tensor, dim: Ints | None = None, keepdim: bool = False, *, name: str | None = None) -> Tensor:
        """Sum over dimensions; None: all but the batch."""
        return self._one("sum", x, dim=dim, keepdim=keepdim, name=name)

    def amax(self, x: Tensor, dim: Ints | None = None, keepdim: bool = False, *, name: str | None = None) -> Tensor:
        """Maximum over dimensions; None: all but the batch."""
        return self._one("amax", x, dim=dim, keepdim=keepdim, name=name)

    def argmax(self, x: Tensor, dim: int, keepdim: bool = False, *, name: str | None = None) -> Tensor:
        """Position of the maximum along a dimension."""
        return self._one("argmax", x, dim=dim, keepdim=keepdim, name=name)

    def vector_norm(
        self, x: Tensor, ord: float = 2.0, dim: Ints | None = None, keepdim: bool = False, *, name: str | None = None
    ) -> Tensor:
        """Norm over dimensions; None: all but the batch."""
        return self._one("vector_norm", x, ord=ord, dim=dim, keepdim=keepdim, name=name)

    # ------------------------------------------------------------------ what modules in PyTorch also use

    def rsqrt(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add rsqrt."""
        return self._one("rsqrt", x, inplace=inplace, name=name)

    def sign(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add sign."""
        return self._one("sign", x, inplace=inplace, name=name)

    def sin(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add sin."""
        return self._one("sin", x, inplace=inplace, name=name)

    def cos(self, x: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add cos."""
        return self._one("cos", x, inplace=inplace, name=name)

    def pow_scalar(self, x: Tensor, exponent: float = 2.0, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add a constant power."""
        return self._one("pow_scalar", x, exponent=exponent, inplace=inplace, name=name)

    def addcmul(self, x: Tensor, y: Tensor, z: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Add x plus y times z, in one op; in place writes into `x`."""
        return self._one("addcmul", x, y, z, inplace=inplace, name=name)

    def compare(self, *inputs: Tensor, dtype: str = "bool", name: str | None = None) -> Tensor:
        """Compare two tensors, or one with a number."""
        return self._one("compare", *inputs, dtype=dtype, name=name)

    def where(self, condition: Tensor, *values: Tensor, name: str | None = None) -> Tensor:
        """Choose between two tensors, or one and a number."""
        return self._one("where", condition, *values, name=name)

    def masked_fill(self, x: Tensor, mask: Tensor, inplace: bool = False, *, name: str | None = None) -> Tensor:
        """Write a number where the mask holds."""
        return self._one("masked_fill", x, mask, inplace=inplace, name=name)

    def assign(self, x: Tensor, *value: Tensor, inplace: bool = False, name: str | None = None) -> Tensor:
        """Overwrite part of `x` by another tensor or a number."""
        return self._one("assign", x, *value, inplace=inplace, name=name)

    def amin(self, x: Tensor, dim: Ints | None = None, keepdim: bool = False, *, name: str | None = None) -> Tensor:
        """Minimum over dimensions; None: all but the batch."""
        return self._one("amin", x, dim=dim, keepdim=keepdim, name=name)

    def logsumexp(
        self, x: Tensor, dim: Ints | None = None, keepdim: bool = False, *, name: str | None = None
    ) -> Tensor:
        """Logarithm of the sum of exponentials over dimensions; None: all but the batch."""
        return self._one("logsumexp", x, dim=dim, keepdim=keepdim, name=name)

    def std(self, x: Tensor, dim: Ints | None = None, keepdim: bool = False, *, name: str | None = None) -> Tensor:
        """Take the standard deviation over dimensions; None: all but the batch."""
        return self._one("std", x, dim=dim, keepdim=keepdim, name=name)

    def var(self, x: Tensor, dim: Ints | None = None, keepdim: bool = False, *, name: str | None = None) -> Tensor:
        """Take the variance over dimensions; None: all but the batch."""
        return self._one("var", x, dim=dim, keepdim=keepdim, name=name)

    def std_mean(self, x: Tensor, dim: Ints, keepdim: bool = False, *, name: str | None = None) -> tuple[Tensor, ...]:
        """Take standard deviation and mean over dimensions."""
        return self._all("std_mean", x, dim=dim, keepdim=keepdim, name=name)

    def var_mean(self, x: Tensor, dim: Ints, keepdim: bool = False, *, name: str | None = None) -> tuple[Tensor, ...]:
        """Take variance and mean over dimensions."""
        return self._all("var_mean", x, dim=dim, keepdim=keepdim, name=name)

    def max(self, x: Tensor, dim: int, keepdim: bool = False, *, name: str | None = None) -> tuple[Tensor, ...]:
        """Maximum along a dimension, and its positions."""
        return self._all("max", x, dim=dim, keepdim=keepdim, name=name)

    def min(self, x: Tensor, dim: int, keepdim: bool = False, *, name: str | None = None) -> tuple[Tensor, ...]:
        """Minimum along a dimension, and its positions."""
        return self._all("min", x, dim=dim, keepdim=keepdim, name=name)

    def topk(self, x: Tensor, k: int, dim: int = -1, *, name: str | None = None) -> tuple[Tensor, ...]:
        """Take the largest along a dimension, and their positions."""
        return self._all("topk", x, k=k, dim=dim, name=name)

    def cumsum(self, x: Tensor, dim: int, *, name: str | None = None) -> Tensor:
        """Sum up along a dimension."""
        return self._one("cumsum", x, dim=dim, name=name)

    def expand_as(self, x: Tensor, like: Tensor, *, name: str | None = None) -> Tensor:
        """Repeat dimensions of size 1, without copying, up to the shape of another tensor."""
        return self._one("expand_as", x, like, name=name)

    def repeat(self, x: Tensor, repeats: Sequence[int], *, name: str | None = None) -> Tensor:
        """Copy each dimension so many times."""
        return self._one("repeat", x, repeats=repeats, name=name)

    def roll(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Move or mirror elements along dimensions."""
        return self._one("roll", x, name=name)

    def gather_elements(self, x: Tensor, index: Tensor, dim: int = 1, *, name: str | None = None) -> Tensor:
        """Take for each position of an index the entry of a dimension that it names, as torch.gather."""
        return self._one("gather_elements", x, index, dim=dim, name=name)

    def grid_sample(self, x: Tensor, grid: Tensor, *, name: str | None = None) -> Tensor:
        """Sample at the positions of a grid."""
        return self._one("grid_sample", x, grid, name=name)

    def unfold(
        self,
        x: Tensor,
        kernel_size: Ints,
        dilation: Ints = 1,
        padding: Ints = 0,
        stride: Ints = 1,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Cut an image into windows, as columns."""
        return self._one(
            "unfold", x, kernel_size=kernel_size, dilation=dilation, padding=padding, stride=stride, name=name
        )

    def unfold_dim(self, x: Tensor, dim: int, size: int, step: int, *, name: str | None = None) -> Tensor:
        """Cut one dimension into overlapping pieces, without copying, as Tensor.unfold."""
        return self._one("unfold_dim", x, dim=dim, size=size, step=step, name=name)

    def fold(self, x: Tensor, output_size: Ints, kernel_size: Ints, *, name: str | None = None) -> Tensor:
        """Sum columns back into an image."""
        return self._one("fold", x, output_size=output_size, kernel_size=kernel_size, name=name)

    def dynamic_conv2d(
        self,
        x: Tensor,
        weight: Tensor,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Padding = 0,
        dilation: Ints = 1,
        groups: int = 1,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a 2-D convolution whose kernels are computed for each image: (batch * out_channels, ...)."""
        return self._one(
            "dynamic_conv2d",
            x,
            weight,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            name=name,
        )

    def rms_norm(
        self,
        x: Tensor,
        normalized_shape: Ints,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        *,
        name: str | None = None,
    ) -> Tensor:
        """Add a root-mean-square normalisation over the trailing dimensions."""
        return self._one(
            "rms_norm",
            x,
            normalized_shape=normalized_shape,
            eps=eps,
            elementwise_affine=elementwise_affine,
            name=name,
        )

    def scaled_dot_product_attention(
        self, query: Tensor, key: Tensor, value: Tensor, *mask: Tensor, name: str | None = None
    ) -> Tensor:
        """Add softmax attention."""
        return self._one("scaled_dot_product_attention", query, key, value, *mask, name=name)

    def as_strided(self, x: Tensor, shape: Sequence[int], *, name: str | None = None) -> Tensor:
        """Look otherwise at the bytes that `x` lies in; 0 keeps a dimension."""
        return self._one("as_strided", x, shape=shape, name=name)

    def detach(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Hand the input on, and no gradient back."""
        return self._one("detach", x, name=name)

    def fill(
        self, shape: Sequence[int], like: Tensor | None = None, dtype: str = "float32", *, name: str | None = None
    ) -> Tensor:
        """Make a tensor at run time; `like` gives it as many rows as that has."""
        return self._one("fill", *(() if like is None else (like,)), shape=shape, dtype=dtype, name=name)

    def opaque(
        self,
        kind: str,
        inputs: Sequence[Tensor],
        shapes: Sequence[Sequence[int]],
        dtype: Sequence[str],
        *,
        name: str | None = None,
    ) -> tuple[Tensor, ...]:
        """Add an op of which only the shapes and types of its outputs are known, one type for each shape.

        It counts no multiply-accumulates; in training it is taken to keep its inputs for backward.
        """
        return self._all("opaque", *inputs, kind=kind, shapes=shapes, dtype=dtype, name=name)

    def identity(self, x: Tensor, *, name: str | None = None) -> Tensor:
        """Hand the input on."""
        return self._one("identity", x, name=name)

    def cast(self, x: Tensor, dtype: str, *, name: str | None = None) -> Tensor:
        """Copy into another data type."""
        return self._one("cast", x, dtype=dtype, name=name)
