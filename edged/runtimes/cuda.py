"""One GPU by NVIDIA's CUDA driver, libcuda.so.1, through ctypes: what it takes to feed an engine. Child's end only.

Source of every call, and of the numbers: docs.nvidia.com/cuda/cuda-driver-api and cuda.h, whose macros put `_v2` behind
the names of some. Nothing of it runs at import: a driver that was called does not survive a fork.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from numpy.typing import NDArray

from edged.errors import Code, EdgedError

_LIBRARY = "libcuda.so.1"

# CUdeviceptr is an unsigned integer of 64 bits on all machines that edged runs on; contexts and streams are pointers.
_CALLS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}

# CUresult.
_SUCCESS, _OUT_OF_MEMORY = 0, 2

# It waits for no work on the default stream.
_STREAM_NON_BLOCKING = 1

_ABSENT_HINT = "NVIDIA's driver brings it: use an image whose base has that (bootc/overlays/README.md)"
_UNUSABLE_HINT = "see `edgectl doctor --only devices`, and the kernel's log for NVRM or nvgpu"
_MEMORY_HINT = "let it have a GPU with more free memory, make max_batch_size less, or unload another model of that GPU"


class CudaError(Exception):
    """The driver refused a call."""

    def __init__(self, call: str, code: int, name: str, text: str) -> None:
        super().__init__(f"{call}: {name} ({code}), {text}")
        self.is_want_of_memory = code == _OUT_OF_MEMORY


class Gpu:
    """A GPU whose primary context, which the CUDA runtime inside an engine uses too, is current in this thread.

    All calls come from the thread that opened it. Each raises CudaError. Its memory goes back when the process ends.
    """

    def __init__(self, driver: _Driver, number: int) -> None:
        self.number = number
        self._driver = driver
        device, context, stream = c_int(), c_void_p(), c_void_p()
        driver.call("cuDeviceGet", byref(device), number)
        driver.call("cuDevicePrimaryCtxRetain", byref(context), device)
        driver.call("cuCtxSetCurrent", context)
        driver.call("cuStreamCreate", byref(stream), _STREAM_NON_BLOCKING)
        self.stream = stream.value or 0
        """A queue of its own, as the number that engines take for it."""

    def free_bytes(self) -> int:
        """What of its memory nobody has; on a Jetson that is the memory of the whole device."""
        free, total = c_size_t(), c_size_t()
        self._driver.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """The address of `size` bytes there, at least one."""
        address = c_uint64()
        self._driver.call("cuMemAlloc_v2", byref(address), size)
        return address.value

    def release(self, address: int) -> None:
        """Gives back what `allocate` gave."""
        self._driver.call("cuMemFree_v2", address)

    def send(self, array: NDArray[Any], address: int) -> None:
        """Queues a copy of a contiguous array to the GPU. The array must stay as it is until `wait`."""
        if array.nbytes:
            self._driver.call("cuMemcpyHtoDAsync_v2", address, _memory(array), array.nbytes, self.stream)

    def fetch(self, address: int, array: NDArray[Any]) -> None:
        """Queues a copy from the GPU into a contiguous array, which holds it after `wait`."""
        if array.nbytes:
            self._driver.call("cuMemcpyDtoHAsync_v2", _memory(array), address, array.nbytes, self.stream)

    def wait(self) -> None:
        """Until all that is queued is done. An error that has broken the context is told here, and ever after."""
        self._driver.call("cuStreamSynchronize", self.stream)


class _Driver:
    """The library, initialized. Raises CudaError, OSError where it is not there, AttributeError where it is too old."""

    def __init__(self) -> None:
        library = ctypes.CDLL(_LIBRARY)
        self._functions: dict[str, Callable[..., int]] = {}
        for name, types in _CALLS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, c_int
            self._functions[name] = function
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        code = self._functions[name](*arguments)
        if code != _SUCCESS:
            raise CudaError(name, code, self._say("cuGetErrorName", code), self._say("cuGetErrorString", code))

    def _say(self, name: str, code: int) -> str:
        """It may be asked before it is initialized; a code that is newer than the driver it does not know."""
        text = c_char_p()
        self._functions[name](code, byref(text))
        return (text.value or b"an unknown error").decode(errors="replace")

    def count(self) -> int:
        found = c_int()
        self.call("cuDeviceGetCount", byref(found))
        return found.value


def open_gpu(number: int) -> Gpu:
    """Asks the driver for a GPU, by its place among those that CUDA_VISIBLE_DEVICES leaves.

    To be called before anything of an engine, which may crash where there is no driver. Raises EdgedError:
    incompatible_runtime without a driver that can be used, incompatible_hardware without that GPU, memory_short.
    """
    try:
        driver = _Driver()
        count = driver.count()
        if number >= count:
            raise EdgedError(
                Code.INCOMPATIBLE_HARDWARE,
                f"there is no GPU.{number}: CUDA's driver shows {count} in all",
                "choose another options.device, or look at CUDA_VISIBLE_DEVICES in the drop-ins of edged.service",
            )
        return Gpu(driver, number)
    except OSError as error:
        text = f"CUDA's driver {_LIBRARY} cannot be loaded: {error}"
        raise EdgedError(Code.INCOMPATIBLE_RUNTIME, text, _ABSENT_HINT) from error
    except AttributeError as error:
        text = f"CUDA's driver {_LIBRARY} is too old: {error}"
        raise EdgedError(Code.INCOMPATIBLE_RUNTIME, text, _ABSENT_HINT) from error
    except CudaError as error:
        if error.is_want_of_memory:
            raise short_of_memory(f"for a context: {error}") from error
        text = f"CUDA's driver gives no GPU: {error}"
        raise EdgedError(Code.INCOMPATIBLE_HARDWARE, text, _UNUSABLE_HINT) from error


def short_of_memory(what: str) -> EdgedError:
    """Why a model is not loaded now, and may be later."""
    return EdgedError(Code.MEMORY_SHORT, f"the GPU has not enough free memory {what}", _MEMORY_HINT)


def _memory(array: NDArray[Any]) -> int:
    """Where it begins; so also of one that must not be written to."""
    address: int = array.__array_interface__["data"][0]
    return address
