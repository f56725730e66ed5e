"""Shape propagation: every tensor's dimensions from the input shapes, in program order."""

from __future__ import annotations

from cnnlive._kernels._jit import kernel
from cnnlive._types import I64


@kernel
def window(n: int, k: int, s: int, before: int, after: int, d: int, mode: int, ceil: int) -> int:
    """Count the positions of a window along one dimension; below 1 if it does not fit.

    `mode` 0 pads explicitly, any other gives ceil(n / s) positions. With `ceil` a last window may hang over the
    end by less than a stride, if it starts inside the input or the padding before it.
    """
    if mode != 0:
        return (n + s - 1) // s
    span = n + before + after - d * (k - 1) - 1
    if s == 1:  # a division costs more than the rest of the op
        return span + 1
    if ceil == 0:
        return span // s + 1
    out = (span + s - 1) // s + 1
    if (out - 1) * s >= n + before:
        out -= 1
    return out


@kernel
def propagate(
    rule: I64,
    attr_ptr: I64,
    attr: I64,
    in_ptr: I64,
    in_idx: I64,
    out_ptr: I64,
    batch: int,
    rank: I64,
    dims: I64,
    numel: I64,
) -> tuple[int, int]:
    """Fill ``rank`` (n_tensors,), ``dims`` (n_tensors, 6) and ``numel`` (n_tensors,).

    `rule` are the codes of ``cnnlive.ops.RULES``, `attr` their columns; an op writes the tensors
    ``out_ptr[op] .. out_ptr[op + 1]``. `batch` replaces the first
    dimension of every network input; 0 keeps it. Unused dimensions hold 1.

    Returns
    -------
    status, op : int, int
        0 and n_ops if all went well; 1 and the op whose shapes are impossible; 2 and the op with an output
        of 2**62 elements or more. What lies behind that op is not filled.

    Notes
    -----
    O(n_edges), one pass; ops have to be numbered in an executable order.
    """
    n_ops = rule.shape[0]
    for op in range(n_ops):
        code = rule[op]
        a = attr_ptr[op]
        first = out_ptr[op]
        t = first
        if code == 2:  # same
            x = in_idx[in_ptr[op]]
            rank[t] = rank[x]
            for i in range(6):
                dims[t, i] = dims[x, i]
            numel[t] = numel[x]
            continue
        for i in range(6):
            dims[t, i] = 1
        if code == 0:  # input
            rank[t] = attr_ptr[op + 1] - a
            for i in range(rank[t]):
                dims[t, i] = attr[a + i]
            if batch > 0:
                dims[t, 0] = batch
        elif code == 1:  # literal dimensions, the first may scale with the batch
            for t in range(first, out_ptr[op + 1]):
                r = attr[a]
                rank[t] = r
                for i in range(r, 6):
                    dims[t, i] = 1
                for i in range(r):
                    dims[t, i] = attr[a + 2 + i]
                if attr[a + 1] != 0:
                    dims[t, 0] *= dims[in_idx[in_ptr[op]], 0]
                a += 2 + r
        elif code == 3:  # convolution
            x = in_idx[in_ptr[op]]
            n_spatial = attr[a]
            channels = dims[x, 1]
            groups = attr[a + 2]
            if rank[x] != n_spatial + 2 or (groups != 1 and (channels % groups != 0 or attr[a + 1] % groups != 0)):
                return 1, op
            rank[t] = n_spatial + 2
            dims[t, 0] = dims[x, 0]
            dims[t, 1] = attr[a + 1]
            mode = attr[a + 4]
            if n_spatial == 2 and mode == 0 and attr[a + 3] == 0:
                # Nearly every op of a CNN that has a rule of its own; worth its own lines (16 -> 11 ns).
                h = dims[x, 2] + attr[a + 7] + attr[a + 8] - attr[a + 9] * (attr[a + 5] - 1) - 1
                w = dims[x, 3] + attr[a + 13] + attr[a + 14] - attr[a + 15] * (attr[a + 11] - 1) - 1
                if h < 0 or w < 0:
                    return 1, op
                if attr[a + 6] != 1:
                    h //= attr[a + 6]
                if attr[a + 12] != 1:
                    w //= attr[a + 12]
                dims[t, 2] = h + 1
                dims[t, 3] = w + 1
                n_spatial = 0
            for i in range(n_spatial):
                c = a + 5 + 6 * i
                n = dims[x, 2 + i]
                if attr[a + 3] == 0:
                    # No ceil: that 0 comes from the column, since a literal would compile `window` once more.
                    size = window(n, attr[c], attr[c + 1], attr[c + 2], attr[c + 3], attr[c + 4], mode, attr[a + 3])
                elif mode != 0:
                    size = n * attr[c + 1]
                else:
                    size = (
                        (n - 1) * attr[c + 1]
                        - attr[c + 2]
                        - attr[c + 3]
                        + attr[c + 4] * (attr[c] - 1)
                        + attr[c + 5]
                        + 1
                    )
                if size < 1:
                    return 1, op
                dims[t, 2 + i] = size
        elif code == 4:  # pool
            x = in_idx[in_ptr[op]]
            n_spatial = attr[a]
            if rank[x] != n_spatial + 2:
                return 1, op
            rank[t] = rank[x]
            dims[t, 0] = dims[x, 0]
            dims[t, 1] = dims[x, 1]
            for i in range(n_spatial):
                c = a + 3 + 5 * i
                size = window(
                    dims[x, 2 + i],
                    attr[c],
                    attr[c + 1],
                    attr[c + 2],
                    attr[c + 3],
                    attr[c + 4],
                    attr[a + 1],
                    attr[a + 2],
                )
                if size < 1:
                    return 1, op
                dims[t, 2 + i] = size
        elif code == 5:  # pool to a given size, 0 keeps
            x = in_idx[in_ptr[op]]
            n_spatial = attr_ptr[op + 1] - a
            if rank[x] != n_spatial + 2:
                return 1, op
            rank[t] = rank[x]
            dims[t, 0] = dims[x, 0]
            dims[t, 1] = dims[x, 1]
            for i in range(n_spatial):
                dims[t, 2 + i] = attr[a + i] if attr[a + i] != 0 else dims[x, 2 + i]
        elif code == 6:  # linear
            x = in_idx[in_ptr[op]]
            rank[t] = rank[x]
            for i in range(rank[x] - 1):
                dims[t, i] = dims[x, i]
            dims[t, rank[x] - 1] = attr[a]
        elif code == 7 or code == 9:  # matrix product and elementwise, leading dimensions broadcast
            kept = 2 if code == 7 else 0
            x = in_idx[in_ptr[op]]
            if code == 9:
                same = True
                for e in range(in_ptr[op] + 1, in_ptr[op + 1]):
                    y = in_idx[e]
                    same &= rank[y] == rank[x] and numel[y] == numel[x]
                    for i in range(6):
                        same &= dims[y, i] == dims[x, i]
                if same:
                    rank[t] = rank[x]
                    for i in range(6):
                        dims[t, i] = dims[x, i]
                    numel[t] = numel[x]
                    continue
            r = 0
            for e in range(in_ptr[op], in_ptr[op + 1]):
                r = max(r, rank[in_idx[e]])
            rank[t] = r
            for e in range(in_ptr[op], in_ptr[op + 1]):
                x = in_idx[e]
                lead = r - rank[x]
                for i in range(rank[x] - kept):
                    n = dims[x, i]
                    if n != 1 and n != dims[t, lead + i]:
                        if dims[t, lead + i] != 1:
                            return 1, op
                        dims[t, lead + i] = n
            if code == 7:
                x = in_idx[in_ptr[op]]
                y = in_idx[in_ptr[op] + 1]
                if dims[x, rank[x] - 1] != dims[y, rank[y] - 2]:
                    return 1, op
                dims[t, r - 2] = dims[x, rank[x] - 2]
                dims[t, r - 1] = dims[y, rank[y] - 1]
        elif code == 8:  # concat
            dim = attr[a]
            x = in_idx[in_ptr[op]]
            rank[t] = rank[x]
            for i in range(rank[x]):
                dims[t, i] = dims[x, i]
            total = 0
            for e in range(in_ptr[op], in_ptr[op + 1]):
                y = in_idx[e]
                if rank[y] != rank[x]:
                    return 1, op
                for i in range(rank[x]):
                    if i != dim and dims[y, i] != dims[x, i]:
                        return 1, op
                total += dims[y, dim]
            dims[t, dim] = total
        elif code == 10:  # reshape: 0 keeps, -1 is what remains
            x = in_idx[in_ptr[op]]
            rank[t] = attr_ptr[op + 1] - a
            known = 1
            rest = -1
            for i in range(rank[t]):
                n = attr[a + i]
                if n == 0:
                    n = dims[x, i]
                if n == -1:
                    rest = i
                else:
                    dims[t, i] = n
                    known *= n
            if rest >= 0:
                if numel[x] % known != 0:
                    return 1, op
                dims[t, rest] = numel[x] // known
            elif known != numel[x]:
                return 1, op
        elif code == 11:  # flatten
            x = in_idx[in_ptr[op]]
            start = attr[a]
            end = attr[a + 1]
            rank[t] = rank[x] - (end - start)
            for i in range(start):
                dims[t, i] = dims[x, i]
            for i in range(start, end + 1):
                dims[t, start] *= dims[x, i]
            for i in range(end + 1, rank[x]):
                dims[t, i - (end - start)] = dims[x, i]
        elif code == 12:  # permute
            x = in_idx[in_ptr[op]]
            rank[t] = rank[x]
            for i in range(rank[x]):
                dims[t, i] = dims[x, attr[a + i]]
        elif code == 13:  # reduce; the dimensions ascend
            x = in_idx[in_ptr[op]]
            r = 0
            c = a + 1
            for i in range(rank[x]):
                if c < attr_ptr[op + 1] and attr[c] == i:
                    c += 1
                    r += attr[a]
                else:
                    dims[t, r] = dims[x, i]
                    r += 1
            rank[t] = r
        elif code == 14:  # resize
            x = in_idx[in_ptr[op]]
            rank[t] = rank[x]
            dims[t, 0] = dims[x, 0]
            dims[t, 1] = dims[x, 1]
            for i in range(rank[x] - 2):
                if attr[a] == 0:
                    dims[t, 2 + i] = attr[a + 1 + i]
                else:
                    factor = float(attr[a + 1 + 2 * i])
                    for _ in range(-attr[a + 2 + 2 * i]):
                        factor *= 0.5
                    for _ in range(attr[a + 2 + 2 * i]):
                        factor *= 2.0
                    dims[t, 2 + i] = int(dims[x, 2 + i] * factor)
                    if dims[t, 2 + i] < 1:
                        return 1, op
        elif code == 15:  # split
            x = in_idx[in_ptr[op]]
            dim = attr[a]
            chunks = attr[a + 1]
            n_out = out_ptr[op + 1] - first
            left = dims[x, dim]
            size = (left + chunks - 1) // chunks if chunks > 0 else 0
            for k in range(n_out):
                t = first + k
                rank[t] = rank[x]
                for i in range(6):
                    dims[t, i] = dims[x, i]
                n = min(size, left) if chunks > 0 else attr[a + 2 + k]
                if n < 1:
                    return 1, op
                dims[t, dim] = n
                left -= n
            if left != 0:
                return 1, op
        elif code == 16:  # slice
            x = in_idx[in_ptr[op]]
            rank[t] = rank[x]
            for i in range(6):
                dims[t, i] = dims[x, i]
            for c in range(a, attr_ptr[op + 1], 4):
                n = dims[x, attr[c]]
                start = attr[c + 1]
                stop = attr[c + 2]
                step = attr[c + 3]
                low = 0 if step > 0 else -1
                high = n if step > 0 else n - 1
                if start < 0:
                    start = max(start + n, low)
                else:
                    start = min(start, high)
                if stop < 0:
                    stop = max(stop + n, low)
                else:
                    stop = min(stop, high)
                size = (stop - start + step - 1) // step if step > 0 else (start - stop - step - 1) // -step
                if size < 1:
                    return 1, op
                dims[t, attr[c]] = size
        elif code == 17:  # pad, the last dimension first
            x = in_idx[in_ptr[op]]
            r = rank[x]
            rank[t] = r
            for i in range(r):
                dims[t, i] = dims[x, i]
            for i in range((attr_ptr[op + 1] - a) // 2):
                dims[t, r - 1 - i] += attr[a + 2 * i] + attr[a + 2 * i + 1]
                if dims[t, r - 1 - i] < 1:
                    return 1, op
        elif code == 18:  # squeeze; the dimensions ascend
            x = in_idx[in_ptr[op]]
            r = 0
            c = a
            for i in range(rank[x]):
                if c < attr_ptr[op + 1] and attr[c] == i:
                    c += 1
                    if dims[x, i] != 1:
                        return 1, op
                else:
                    dims[t, r] = dims[x, i]
                    r += 1
            rank[t] = r
        elif code == 19:  # unsqueeze; the dimensions ascend
            x = in_idx[in_ptr[op]]
            c = a
            k = 0
            rank[t] = rank[x] + attr_ptr[op + 1] - a
            for i in range(rank[t]):
                if c < attr_ptr[op + 1] and attr[c] == i:
                    c += 1
                else:
                    dims[t, i] = dims[x, k]
                    k += 1
        elif code == 20:  # pixel shuffle and its inverse
            x = in_idx[in_ptr[op]]
            f = attr[a]
            if rank[x] != 4:
                return 1, op
            rank[t] = 4
            dims[t, 0] = dims[x, 0]
            if attr[a + 1] != 0:
                if dims[x, 1] % (f * f) != 0:
                    return 1, op
                dims[t, 1] = dims[x, 1] // (f * f)
                dims[t, 2] = dims[x, 2] * f
                dims[t, 3] = dims[x, 3] * f
            else:
                if dims[x, 2] % f != 0 or dims[x, 3] % f != 0:
                    return 1, op
                dims[t, 1] = dims[x, 1] * f * f
                dims[t, 2] = dims[x, 2] // f
                dims[t, 3] = dims[x, 3] // f
        else:  # expand, 0 keeps
            x = in_idx[in_ptr[op]]
            rank[t] = attr_ptr[op + 1] - a
            lead = rank[t] - rank[x]
            for i in range(rank[t]):
                n = dims[x, i - lead] if i >= lead else 1
                if attr[a + i] != 0:
                    if n != 1 and n != attr[a + i]:
                        return 1, op
                    n = attr[a + i]
                dims[t, i] = n
        if (code == 4 or code == 5) and out_ptr[op + 1] - first == 2:
            rank[first + 1] = rank[first]
            for i in range(6):
                dims[first + 1, i] = dims[first, i]
        for t in range(first, out_ptr[op + 1]):
            total = 1
            wide = 0
            for i in range(6):
                # Two factors below 2**31 have a product below 2**62; a product that wrapped may be negative.
                wide |= total | dims[t, i]
                total *= dims[t, i]
            if wide < 0 or wide >= 2147483648:
                real = 1.0
                for i in range(6):
                    real *= dims[t, i]
                if real >= 4611686018427387904.0:
                    return 2, op
            numel[t] = total
    return 0, n_ops
