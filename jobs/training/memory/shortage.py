"""Tell if an error means that a device or a machine ran out of memory. Standard library only."""

from __future__ import annotations

# Messages of PyTorch for CUDA, cuBLAS, cuDNN and the CPU, of the C++ library, and of the system, in lower case. cuBLAS
# and cuDNN are "not initialized", and cuDNN has no algorithm, where the memory for their workspace is missing.
MEMORY_TEXTS = (
    "out of memory",
    "alloc_failed",
    "alloc failed",
    "cublas_status_not_initialized",
    "cudnn_status_not_initialized",
    "unable to find a valid cudnn algorithm",
    "can't allocate memory",
    "std::bad_alloc",
    "cannot allocate memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that a device or this machine ran out of memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(one in text for one in MEMORY_TEXTS)
