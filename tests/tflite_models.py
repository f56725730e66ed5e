"""Small TFLite files, written op by op with the schema package, for the reader and the real interpreter."""

from __future__ import annotations

import flatbuffers
import numpy as np
import tflite

TYPES = {
    "float32": tflite.TensorType.FLOAT32, "float16": tflite.TensorType.FLOAT16, "int8": tflite.TensorType.INT8,
    "uint8": tflite.TensorType.UINT8, "int16": tflite.TensorType.INT16, "int32": tflite.TensorType.INT32,
    "int64": tflite.TensorType.INT64, "bool": tflite.TensorType.BOOL, "int4": tflite.TensorType.INT4,
    "string": tflite.TensorType.STRING, "complex64": tflite.TensorType.COMPLEX64,
}  # fmt: skip
SCALE, ZERO = 0.1, 0
WEIGHT_SCALE = 0.05
CODES = {k: v for k, v in vars(tflite.BuiltinOperator).items() if not k.startswith("_")}
CODES["BUILTIN_250"] = 250  # of a schema to come
NONE, RELU, RELU6 = 0, 1, 3
SAME, VALID = tflite.Padding.SAME, tflite.Padding.VALID


class Net:
    """One subgraph: tensors and operators as plain rows, written as a file by :meth:`write`."""

    def __init__(self, dtype="float32", seed=0):
        self.dtype = dtype
        self.rng = np.random.default_rng(seed)
        self.buffers = [b""]
        self.tensors = []
        self.ops = []
        self.codes = []
        self.inputs, self.outputs = [], []

    # ------------------------------------------------------------------ rows

    def tensor(
        self, shape, dtype=None, data=None, scale=SCALE, zero=ZERO, axis=0, name=None, variable=False, signature=None
    ):
        dtype = dtype or self.dtype
        buffer = 0
        if data is not None:
            buffer = len(self.buffers)
            self.buffers.append(data)
        index = len(self.tensors)
        self.tensors.append({"shape": tuple(shape), "dtype": dtype, "buffer": buffer, "scale": scale, "zero": zero,
                             "axis": axis, "name": f"t{index}" if name is None else name, "variable": variable,
                             "signature": signature})  # fmt: skip
        return index

    def const(self, shape, dtype=None, values=None, **more):
        dtype = dtype or self.dtype
        kind = np.dtype(dtype)
        if values is None:
            values = self.rng.integers(-3, 4, shape)
        return self.tensor(shape, dtype, np.ascontiguousarray(values, kind).tobytes(), **more)

    def input(self, shape, dtype=None, **more):
        self.inputs.append(self.tensor(shape, dtype, **more))
        return self.inputs[-1]

    def output(self, *tensors):
        self.outputs += tensors

    def shape(self, t):
        return self.tensors[t]["shape"]

    def op(self, code, inputs, outputs, options=None, **values):
        """Add an operator; `options` names its table, `values` are that table's fields."""
        self.ops.append((self.code(code), list(inputs), list(outputs), options, values))
        return outputs[0] if len(outputs) == 1 else outputs

    def code(self, name):
        if name not in self.codes:
            self.codes.append(name)
        return self.codes.index(name)

    # ------------------------------------------------------------------ operators

    def quantized(self):
        return self.dtype != "float32"

    def bias_of(self, n):
        if not self.quantized():
            return self.const((n,))
        return self.const((n,), "int64" if self.dtype == "int16" else "int32", scale=SCALE * WEIGHT_SCALE)

    def weight_of(self, shape, axis=0):
        if not self.quantized():
            return self.const(shape)
        return self.const(shape, "int8", scale=[WEIGHT_SCALE] * shape[axis], zero=[0] * shape[axis], axis=axis)

    def window(self, n, k, s, d, padding):
        return -(-n // s) if padding == SAME else (n - d * (k - 1) - 1) // s + 1

    def spatial(self, x, k, s, d, padding):
        return tuple(self.window(n, k_, s_, d, padding) for n, k_, s_ in zip(self.shape(x)[1:3], k, s, strict=True))

    def conv(self, x, channels, k=3, s=1, padding=SAME, act=RELU, d=1, bias=True, groups=1):
        k, s = pair(k), pair(s)
        n, _, _, c = self.shape(x)
        w = self.weight_of((channels, *k, c // groups))
        b = self.bias_of(channels) if bias else -1
        y = self.tensor((n, *self.spatial(x, k, s, d, padding), channels))
        return self.op("CONV_2D", [x, w, b], [y], "Conv2DOptions", Padding=padding, StrideH=s[0], StrideW=s[1],
                       DilationHFactor=d, DilationWFactor=d, FusedActivationFunction=act)  # fmt: skip

    def depthwise(self, x, k=3, s=1, padding=SAME, act=RELU6, d=1, multiplier=1):
        k, s = pair(k), pair(s)
        n, _, _, c = self.shape(x)
        w = self.weight_of((1, *k, c * multiplier), axis=3)
        b = self.bias_of(c * multiplier)
        y = self.tensor((n, *self.spatial(x, k, s, d, padding), c * multiplier))
        return self.op("DEPTHWISE_CONV_2D", [x, w, b], [y], "DepthwiseConv2DOptions", Padding=padding, StrideH=s[0],
                       StrideW=s[1], DilationHFactor=d, DilationWFactor=d, DepthMultiplier=multiplier,
                       FusedActivationFunction=act)  # fmt: skip

    def transpose_conv(self, x, channels, k=3, s=2, padding=SAME, bias=True):
        k, s = pair(k), pair(s)
        n, h, w_, c = self.shape(x)
        size = [m * st if padding == SAME else (m - 1) * st + kk for m, st, kk in zip((h, w_), s, k, strict=True)]
        target = self.const((4,), "int32", [n, *size, channels])
        w = self.weight_of((channels, *k, c))
        y = self.tensor((n, *size, channels))
        inputs = [target, w, x] + ([self.bias_of(channels)] if bias else [])
        return self.op("TRANSPOSE_CONV", inputs, [y], "TransposeConvOptions", Padding=padding, StrideH=s[0],
                       StrideW=s[1])  # fmt: skip

    def pool(self, x, kind="MAX", k=2, s=2, padding=VALID):
        k, s = pair(k), pair(s)
        n, _, _, c = self.shape(x)
        y = self.tensor((n, *self.spatial(x, k, s, 1, padding), c))
        return self.op(f"{kind}_POOL_2D", [x], [y], "Pool2DOptions", Padding=padding, StrideH=s[0], StrideW=s[1],
                       FilterHeight=k[0], FilterWidth=k[1])  # fmt: skip

    def dense(self, x, features, act=NONE, bias=True):
        n = int(np.prod(self.shape(x))) // self.shape(x)[-1]
        w = self.const((features, self.shape(x)[-1]), "int8" if self.quantized() else None, scale=WEIGHT_SCALE)
        b = self.bias_of(features) if bias else -1
        return self.op("FULLY_CONNECTED", [x, w, b], [self.tensor((n, features))], "FullyConnectedOptions",
                       FusedActivationFunction=act)  # fmt: skip

    def binary(self, code, a, b, act=NONE):
        y = self.tensor(np.broadcast_shapes(self.shape(a), self.shape(b)))
        options = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}.get(code)
        return self.op(code, [a, b], [y], options, **({"FusedActivationFunction": act} if options else {}))

    def unary(self, code, x, scale=SCALE, zero=ZERO):
        return self.op(code, [x], [self.tensor(self.shape(x), scale=scale, zero=zero)])

    def softmax(self, x):
        scale, zero = (1 / 256, -128) if self.dtype == "int8" else (1 / 32768, 0)
        y = self.tensor(self.shape(x), scale=scale, zero=zero)
        return self.op("SOFTMAX", [x], [y], "SoftmaxOptions", Beta=1.0)

    def logistic(self, x):
        return self.unary("LOGISTIC", x, *((1 / 256, -128) if self.dtype == "int8" else (1 / 32768, 0)))

    def concat(self, *xs, axis=3):
        shape = list(self.shape(xs[0]))
        shape[axis] = sum(self.shape(x)[axis] for x in xs)
        return self.op("CONCATENATION", xs, [self.tensor(shape)], "ConcatenationOptions", Axis=axis)

    def reshape(self, x, shape):
        return self.op("RESHAPE", [x, self.const((len(shape),), "int32", shape)], [self.tensor(shape)],
                       "ReshapeOptions")  # fmt: skip

    def pad(self, x, pads):
        y = self.tensor([n + a + b for n, (a, b) in zip(self.shape(x), pads, strict=True)])
        return self.op("PAD", [x, self.const((len(pads), 2), "int32", pads)], [y], "PadOptions")

    def reduce(self, code, x, axes, keep=True):
        kept = [1 if i in axes else n for i, n in enumerate(self.shape(x)) if keep or i not in axes]
        return self.op(code, [x, self.const((len(axes),), "int32", axes)], [self.tensor(kept)], "ReducerOptions",
                       KeepDims=keep)  # fmt: skip

    def transpose(self, x, perm):
        y = self.tensor([self.shape(x)[p] for p in perm])
        return self.op("TRANSPOSE", [x, self.const((len(perm),), "int32", perm)], [y], "TransposeOptions")

    def split(self, x, parts, axis=3):
        shape = list(self.shape(x))
        shape[axis] //= parts
        return self.op("SPLIT", [self.const((), "int32", axis), x], [self.tensor(shape) for _ in range(parts)],
                       "SplitOptions", NumSplits=parts)  # fmt: skip

    def strided_slice(self, x, begin, end, strides=None, **masks):
        strides = strides or [1] * len(begin)
        shape = []
        for i, n in enumerate(self.shape(x)):
            b = None if masks.get("BeginMask", 0) >> i & 1 else begin[i]
            e = None if masks.get("EndMask", 0) >> i & 1 else end[i]
            if masks.get("ShrinkAxisMask", 0) >> i & 1:
                continue
            shape.append(len(range(*slice(b, e, strides[i]).indices(n))))
        rows = [self.const((len(r),), "int32", r) for r in (begin, end, strides)]
        return self.op("STRIDED_SLICE", [x, *rows], [self.tensor(shape)], "StridedSliceOptions", **masks)

    def resize(self, x, size, code="RESIZE_NEAREST_NEIGHBOR"):
        n, _, _, c = self.shape(x)
        options = "ResizeBilinearOptions" if code.endswith("BILINEAR") else "ResizeNearestNeighborOptions"
        return self.op(code, [x, self.const((2,), "int32", size)], [self.tensor((n, *size, c))], options)

    def cast(self, code, x, dtype, **more):
        return self.op(code, [x], [self.tensor(self.shape(x), dtype, **more)])

    def shuffle(self):
        """List the tensors in another order, as converters that sort by name do; the operators stay."""
        order = self.rng.permutation(len(self.tensors)).tolist()
        new = {old: i for i, old in enumerate(order)} | {-1: -1}
        self.tensors = [self.tensors[old] for old in order]
        self.ops = [(c, [new[i] for i in ins], [new[i] for i in outs], o, v) for c, ins, outs, o, v in self.ops]
        self.inputs, self.outputs = [new[i] for i in self.inputs], [new[i] for i in self.outputs]
        return self

    def rows(self):
        """Return bytes, first and last use of each tensor that lies in the arena, as the interpreter numbers uses.

        Operators count from 1, inputs are there at 0, outputs stay; -1 is what no operator knows.
        """
        first = dict.fromkeys(self.inputs, 0)
        last = dict(first)
        for step, (_, ins, outs, _, _) in enumerate(self.ops, 1):
            first |= dict.fromkeys(outs, step)
            last |= dict.fromkeys([*ins, *outs], step)
        last |= dict.fromkeys(self.outputs, len(self.ops))
        return [
            (
                int(np.prod(t["shape"], dtype=np.int64)) * np.dtype(t["dtype"]).itemsize,
                first.get(i, -1),
                last.get(i, -1),
            )
            for i, t in enumerate(self.tensors)
            if not t["buffer"] and not t["variable"]
        ]

    # ------------------------------------------------------------------ the file

    def write(self, version=3, identifier=b"TFL3", extra_subgraphs=0, outside=False):
        """Return the file; with `outside` the data of constants lies behind the tables, as above 2 GB."""
        if not outside:
            return self._write(version, identifier, extra_subgraphs, None)
        end = len(self._write(version, identifier, extra_subgraphs, 2))
        return self._write(version, identifier, extra_subgraphs, end) + b"".join(self.buffers)

    def _write(self, version, identifier, extra_subgraphs, outside):
        b = flatbuffers.Builder(1024)
        offsets = []
        for data in self.buffers:
            blob = b.CreateByteVector(data) if data and outside is None else None
            tflite.BufferStart(b)
            if blob is not None:
                tflite.BufferAddData(b, blob)
            elif data:
                tflite.BufferAddOffset(b, outside)
                tflite.BufferAddSize(b, len(data))
                outside += len(data)
            offsets.append(tflite.BufferEnd(b))
        buffers = vector(b, tflite.ModelStartBuffersVector, offsets)
        tensors = vector(b, tflite.SubGraphStartTensorsVector, [self._tensor(b, t) for t in self.tensors])
        ops = vector(b, tflite.SubGraphStartOperatorsVector, [self._op(b, *row) for row in self.ops])
        inputs, outputs = ints(b, self.inputs), ints(b, self.outputs)
        graphs = []
        name = b.CreateString("main")
        for _ in range(1 + extra_subgraphs):
            tflite.SubGraphStart(b)
            tflite.SubGraphAddTensors(b, tensors)
            tflite.SubGraphAddInputs(b, inputs)
            tflite.SubGraphAddOutputs(b, outputs)
            tflite.SubGraphAddOperators(b, ops)
            tflite.SubGraphAddName(b, name)
            graphs.append(tflite.SubGraphEnd(b))
        subgraphs = vector(b, tflite.ModelStartSubgraphsVector, graphs)
        codes = vector(b, tflite.ModelStartOperatorCodesVector, [self._code(b, c) for c in self.codes])
        description = b.CreateString("written by the tests of cnnlive")
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, version)
        tflite.ModelAddOperatorCodes(b, codes)
        tflite.ModelAddSubgraphs(b, subgraphs)
        tflite.ModelAddDescription(b, description)
        tflite.ModelAddBuffers(b, buffers)
        b.Finish(tflite.ModelEnd(b), file_identifier=identifier)
        return bytes(b.Output())

    @staticmethod
    def _code(b, name):
        custom = None if name in CODES else b.CreateString(name)
        code = CODES.get(name, tflite.BuiltinOperator.CUSTOM)
        tflite.OperatorCodeStart(b)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
        tflite.OperatorCodeAddBuiltinCode(b, code)
        tflite.OperatorCodeAddVersion(b, 1)
        if custom is not None:
            tflite.OperatorCodeAddCustomCode(b, custom)
        return tflite.OperatorCodeEnd(b)

    def _tensor(self, b, t):
        name = b.CreateString(t["name"])
        shape = ints(b, t["shape"])
        signature = ints(b, t["signature"]) if t["signature"] else None
        quantization = None
        if t["dtype"] in ("int8", "int4", "int16", "uint8", "int32", "int64") and t["scale"] is not None:
            scales, zeros = np.atleast_1d(t["scale"]), np.atleast_1d(t["zero"])
            scale = b.CreateNumpyVector(scales.astype(np.float32))
            zero = b.CreateNumpyVector(np.resize(zeros, len(scales)).astype(np.int64))
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, scale)
            tflite.QuantizationParametersAddZeroPoint(b, zero)
            tflite.QuantizationParametersAddQuantizedDimension(b, t["axis"])
            quantization = tflite.QuantizationParametersEnd(b)
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, shape)
        tflite.TensorAddType(b, TYPES[t["dtype"]])
        tflite.TensorAddBuffer(b, t["buffer"])
        tflite.TensorAddName(b, name)
        if quantization is not None:
            tflite.TensorAddQuantization(b, quantization)
        if t["variable"]:
            tflite.TensorAddIsVariable(b, True)
        if signature is not None:
            tflite.TensorAddShapeSignature(b, signature)
        return tflite.TensorEnd(b)

    @staticmethod
    def _op(b, code, inputs, outputs, options, values):
        table = None
        if options:
            getattr(tflite, f"{options}Start")(b)
            for key, value in values.items():
                getattr(tflite, f"{options}Add{key}")(b, value)
            table = getattr(tflite, f"{options}End")(b)
        ins, outs = ints(b, inputs), ints(b, outputs)
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, code)
        tflite.OperatorAddInputs(b, ins)
        tflite.OperatorAddOutputs(b, outs)
        if table is not None:
            tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, options))
            tflite.OperatorAddBuiltinOptions(b, table)
        return tflite.OperatorEnd(b)


def pair(v):
    return v if isinstance(v, tuple) else (v, v)


def ints(b, values):
    return b.CreateNumpyVector(np.asarray(values, np.int32).reshape(-1))


def vector(b, start, offsets):
    start(b, len(offsets))
    for o in reversed(offsets):
        b.PrependUOffsetTRelative(o)
    return b.EndVector()


# ---------------------------------------------------------------------------------- nets


def chain(n):
    x = n.input((1, 12, 12, 3))
    for c, s in ((8, 1), (16, 2), (16, 1), (24, 2)):
        x = n.conv(x, c, s=s)
    n.output(x)


def residual(n):
    x = n.conv(n.input((1, 16, 16, 3)), 8)
    for c, s in ((8, 1), (16, 2)):
        short = x if s == 1 else n.conv(x, c, 1, s, act=NONE)
        x = n.binary("ADD", n.conv(n.conv(x, c, s=s), c, act=NONE), short, RELU)
    x = n.reshape(n.pool(x, "AVERAGE", 8, 8), (1, 16))
    n.output(n.softmax(n.dense(x, 10)))


def inception(n):
    x = n.conv(n.input((1, 14, 14, 3)), 16, padding=VALID)
    for _ in range(2):
        a, b, c = n.conv(x, 6, 1), n.conv(n.conv(x, 8, 1), 12), n.conv(n.conv(n.conv(x, 4, 1), 6), 8, (5, 1))
        x = n.concat(a, b, c, n.conv(n.pool(x, "MAX", 3, 1, SAME), 7, 1))
    n.output(n.reduce("MEAN", x, [1, 2], False))


def separable(n):
    x = n.conv(n.input((1, 24, 24, 1)), 8, s=2)
    for c, s in ((16, 1), (32, 2), (32, 1)):
        x = n.conv(n.depthwise(x, s=s), c, 1, act=RELU6)
    x = n.pool(x, "AVERAGE", 6, 6)
    n.output(n.softmax(n.dense(n.reshape(x, (1, 32)), 4)))


def inverted_with_pads(n):
    x = n.input((1, 20, 20, 4))
    for s in (1, 2):
        y = n.conv(x, 24, 1, act=RELU6)
        y = n.pad(y, [(0, 0), (1, 1), (1, 1), (0, 0)])
        y = n.conv(n.depthwise(y, s=s, padding=VALID), 4, 1, act=NONE)
        x = n.binary("ADD", x, y) if s == 1 else y
    n.output(x)


def pyramid(n):
    x = n.conv(n.input((1, 16, 16, 3)), 6, s=2)
    deep = n.conv(n.conv(x, 10, s=2), 10)
    up = n.resize(n.conv(deep, 6, 1), (8, 8))
    both = n.binary("ADD", x, up)
    n.output(n.conv(deep, 5, act=NONE), n.logistic(n.conv(both, 5, act=NONE)), both)


def decoder(n):
    x = n.conv(n.input((1, 6, 6, 8)), 12)
    a, b = n.split(n.transpose_conv(x, 8), 2)
    y = n.concat(a, n.unary("RELU", b), axis=1)
    n.output(n.transpose(n.strided_slice(y, [0, 0, 0, 0], [0, 0, 12, 4], [1, 2, 1, 1], BeginMask=15, EndMask=11),
                         [0, 3, 1, 2]))  # fmt: skip


def dense_net(n):
    x = n.reshape(n.input((1, 10, 10, 2)), (1, 200))
    for c in (64, 32, 64):
        x = n.dense(x, c, RELU)
    n.output(n.dense(x, 200))


def two_inputs(n):
    a, b = n.input((1, 8, 8, 3)), n.input((1, 4, 4, 3))
    n.output(n.concat(n.conv(a, 5, s=2), n.conv(b, 5)), n.unary("RELU", b))


def streaming(n):
    x = n.input((1, 24))
    wide = n.quantized()
    for units in (12, 6):
        feature = n.const((2 * units, n.shape(x)[1]), "int8" if wide else None, scale=WEIGHT_SCALE)
        time = n.const((2 * units, 10), "int16" if wide else None, scale=WEIGHT_SCALE)
        bias = n.const((units,), "int32" if wide else None, scale=WEIGHT_SCALE * WEIGHT_SCALE)
        state = n.tensor((1, 20 * units), "int16" if wide else None, scale=WEIGHT_SCALE, variable=True)
        x = n.op("SVDF", [x, feature, time, bias, state], [n.tensor((1, units))], "SVDFOptions", Rank=2,
                 FusedActivationFunction=RELU)  # fmt: skip
    n.output(n.softmax(n.dense(x, 3)))


def mirrored(n):
    x = n.input((1, 8, 8, 3))
    y = n.op("MIRROR_PAD", [x, n.const((4, 2), "int32", [(0, 0), (2, 2), (1, 1), (0, 0)])],
             [n.tensor((1, 12, 10, 3))], "MirrorPadOptions", Mode=0)  # fmt: skip
    y = n.reduce("REDUCE_MAX", n.conv(y, 5), [2])
    z = n.op("ADD_N", [y, y, y], [n.tensor(n.shape(y))])
    n.output(n.reduce("SUM", z, [1]))


def recurrent(n):
    x, units = n.input((1, 7, 5)), 9
    gates = [n.const((units, 5)) for _ in range(4)] + [n.const((units, units)) for _ in range(4)]
    biases = [n.const((units,)) for _ in range(4)]
    states = [n.tensor((1, units), variable=True) for _ in range(2)]
    inputs = [x, *gates, -1, -1, -1, *biases, -1, -1, *states, -1, -1, -1, -1]
    n.output(n.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [n.tensor((1, 7, units))],
                  "UnidirectionalSequenceLSTMOptions", FusedActivationFunction=4))  # fmt: skip


NETS = (chain, residual, inception, separable, inverted_with_pads, pyramid, decoder, dense_net, two_inputs, streaming,
        mirrored)  # fmt: skip


def random_net(seed):
    """Return a net of random topology: branches of all kinds, a few inputs and outputs, tensors in any order."""
    rng = np.random.default_rng(seed)
    n = Net(("float32", "int8")[seed % 2], seed)
    live = [n.input((1, int(rng.integers(4, 13)), int(rng.integers(4, 13)), int(rng.integers(1, 9))))
            for _ in range(rng.integers(1, 4))]  # fmt: skip
    for _ in range(rng.integers(4, 25)):
        x = live[rng.integers(len(live))]
        _, h, w, c = n.shape(x)
        alike = [t for t in live if n.shape(t) == n.shape(x)]
        beside = [t for t in live if n.shape(t)[:3] == n.shape(x)[:3]]
        k, s = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        padding = SAME if min(h, w) < k else int(rng.integers(2))
        match int(rng.integers(11)):
            case 0 | 1:
                y = n.conv(x, int(rng.integers(1, 17)), k, s, padding)
            case 2:
                y = n.depthwise(x, k, s, padding)
            case 3:
                y = n.pool(x, ("MAX", "AVERAGE")[rng.integers(2)], k, s, padding)
            case 4 | 5:
                y = n.binary(("ADD", "MUL")[rng.integers(2)], x, alike[rng.integers(len(alike))])
            case 6:
                y = n.concat(*[beside[rng.integers(len(beside))] for _ in range(rng.integers(2, 4))])
            case 7:
                y = n.pad(x, [(0, 0), *rng.integers(0, 3, (2, 2)).tolist(), (0, 0)])
            case 8:
                y = n.unary("RELU", x)
            case 9:
                y = n.reshape(n.reshape(x, (1, h * w * c)), (1, w, h, c))
            case _:
                parts = n.split(x, c) if 1 < c < 5 else (n.transpose(x, [0, 2, 1, 3]),)
                live += parts[1:]
                y = parts[0]
        live.append(y)
    made = [t for t in live if t not in n.inputs]
    n.output(*{made[-1], *rng.choice(made, min(3, len(made))).tolist()})
    return n.shuffle() if seed % 3 else n
