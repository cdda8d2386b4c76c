"""Machine instructions for compiled functions that Numba does not offer."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array


@intrinsic  # type: ignore[untyped-decorator]
def popcount(typing_context: Any, value: Any) -> Any:
    """Return the number of set bits of a uint64, in one instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing_context: Any, array: Any, item: Any) -> Any:
    """Prefetch the cache line of item ``item`` of a contiguous array; an item outside the array does nothing."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, integer = ir.PointerType(ir.IntType(8)), ir.IntType(32)
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        prefetch = ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer])
        function = cgutils.get_or_insert_function(builder.module, prefetch, "llvm.prefetch.p0i8")
        read, into_l2, data_cache = integer(0), integer(2), integer(1)
        builder.call(function, [address, read, into_l2, data_cache])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate
