"""What a module can be loaded from: PTX text or the PTX container."""

from __future__ import annotations

from migproxy.errors import CudaError
from migproxy.softgpu import container
from migproxy.softgpu import errors_table as status
from migproxy.softgpu import memory_unsafe as raw

_FOREIGN = {
    b"\x7fELF": "a cubin (ELF)",
    b"\x50\xed\x55\xba": "a fat binary",
    b"\xb1\x43\x62\x46": "a fat binary wrapper",
    b"BC\xc0\xde": "LLVM bitcode",
    b"\xed\x43\x4e\x7f": "LTO IR",
}


def texts_at(address: int) -> list[bytes]:
    """The PTX texts of the image at ``address``, which must be readable up to its own end.

    Raises
    ------
    CudaError
        ``NO_BINARY_FOR_GPU`` for machine code of a real GPU, ``INVALID_IMAGE`` for anything else that is no image.
    """
    head = raw.read_bytes(address, 4)
    if head == container.MAGIC[:4] and raw.read_bytes(address, 8) == container.MAGIC:
        try:
            size = container.length(raw.read_bytes(address, container.HEADER.size))
        except ValueError as error:
            raise CudaError(status.INVALID_IMAGE, str(error)) from error
        return texts_of(raw.read_bytes(address, size))
    if head in _FOREIGN:
        return texts_of(head)
    return texts_of(raw.read_string(address))


def texts_of(image: bytes) -> list[bytes]:
    """The PTX texts of an image; see `texts_at`."""
    if container.is_container(image):
        try:
            return container.unwrap(image)
        except ValueError as error:
            raise CudaError(status.INVALID_IMAGE, str(error)) from error
    if image[:4] in _FOREIGN:
        raise CudaError(
            status.NO_BINARY_FOR_GPU,
            f"the image is {_FOREIGN[image[:4]]} for a real GPU; the software GPU loads PTX",
        )
    text = image.rstrip(b"\0")
    if not text or b"\0" in text or b".version" not in text:
        raise CudaError(status.INVALID_IMAGE, "the image is neither PTX nor a PTX container")
    return [text]
